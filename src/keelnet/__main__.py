"""``python -m keelnet``."""

from keelnet.cli import main

main()
