"""IDX: the format of MNIST and Fashion-MNIST, an array of bytes behind its shape; also as .gz."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BYTES = 0x08  # the code for unsigned bytes, the one type that these sets use
WHOLE = 2**31  # more than this is no set of small images


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The array of ``axes`` axes in a file of unsigned bytes (big-endian shape, then the values).

    Raises ValueError, in one sentence, for a file that is no IDX, of another type or number of axes,
    cut off, or longer than its shape says; OSError for one that cannot be opened.
    """
    content = content_of(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(f"{path} is no IDX file: it must begin with two zero bytes, type and axes")
    kind, found = content[2], content[3]
    if kind != BYTES or found != axes:
        what = "images (3 axes)" if axes == 3 else "labels (1 axis)"
        raise ValueError(
            f"{path} must hold {what} of type 0x08, got {found} axes of type 0x{kind:02x};"
            " images and labels may have changed names"
        )
    begin = 4 + 4 * axes
    if len(content) < begin:
        raise ValueError(f"{path} is cut off within its shape; copy it again")
    shape = struct.unpack(f">{axes}I", content[4:begin])
    size = math.prod(shape)
    if len(content) - begin != size or not size:
        raise ValueError(
            f"{path} must hold {size} values after its shape {shape}, got {len(content) - begin};"
            " it is cut off or damaged, copy it again"
        )
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)


def content_of(path: Path) -> bytes:
    """All bytes of the file, unpacked if it is packed."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            content = file.read(WHOLE + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}; copy it again") from None
    if len(content) > WHOLE:
        raise ValueError(f"{path} unpacks to more than {WHOLE} bytes, too much for this format")
    return content
