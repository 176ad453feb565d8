"""Scenes for the tests of the page: one of every method on every field that it moves."""

from dataclasses import replace

from keelnet.app.scene import MOVES, Scene

FIRST = Scene(
    kernel=((0.6, -1.1), (0.4, 0.3)),
    depth=6,
    step_size=0.2,
    damping=0.3,
    features=((0.3, -0.2), (0.1, 0.4)),
)
EVERY = {
    f"{integrator}-{field}-{start}": replace(FIRST, integrator=integrator, field=field, start=start)
    for integrator, fields in MOVES.items()
    for field in fields
    for start in (("full", "half") if integrator in ("verlet", "leapfrog") else ("full",))
}
