"""The plan: who meets whom on which case, quick or in full."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cases import BACKWARD, FORWARD, Case, Pass


@dataclass(frozen=True)
class Contender:
    """One way of one library. ``module`` is its file in ``contenders/``."""

    peer: str
    method: str
    module: str
    environment: str
    same_mathematics: bool = True
    approximate: bool = False  # its gradient differs by design: compared once, not in every cell
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.peer} {self.method}"

    @property
    def is_ours(self) -> bool:
        return self.peer == "keelnet"

    @property
    def is_floor(self) -> bool:
        return self.peer == "floor"


def _ours(method: str) -> Contender:
    return Contender("keelnet", method, "ours", "project")


def _torch(method: str) -> Contender:
    return Contender("torch", method, "eager", "project")


STORE_ALL, CHECKPOINTED, REVERSIBLE = map(_ours, ("store_all", "checkpointed", "reversible"))
AUTOGRAD, CHECKPOINT = map(_torch, ("autograd", "checkpoint"))
COMPILED = Contender(
    "torch.compile", "layer", "compiled", "project", note="the layer is compiled, the loop is not"
)
SCAN = Contender("jax", "scan", "jax_scan", "jax")
COMPONENTS = Contender(
    "jax", "components", "jax_scan", "jax", note="laid out by hand: every component an array"
)
DIFFRAX = tuple(
    Contender("diffrax", method, "diffrax_solve", "diffrax")
    for method in ("checkpointed", "direct")
)
TORCHDIFFEQ = (
    Contender("torchdiffeq", "autograd", "torchdiffeq_solve", "torchdiffeq"),
    Contender(
        "torchdiffeq",
        "adjoint",
        "torchdiffeq_solve",
        "torchdiffeq",
        approximate=True,
        note="the gradient of the continuous problem",
    ),
)
TORCHODE = Contender("torchode", "autograd", "torchode_solve", "torchode")
MEMCNN = Contender("memcnn", "coupling", "memcnn_coupling", "memcnn")
IUNETS = Contender(
    "iunets",
    "coupling",
    "iunets_network",
    "iunets",
    note="our layers as its modules, lower level empty",
)
MONAI = Contender(
    "monai",
    "units",
    "monai_units",
    "monai",
    same_mathematics=False,
    note="residual units of two convolutions: equal work, another network",
)

SOLVERS = (*TORCHDIFFEQ, TORCHODE, *DIFFRAX)


def _floors(kinds: tuple[str, ...], libraries: tuple[str, ...]) -> tuple[Contender, ...]:
    names = [f"{kind} {library}" for kind in kinds for library in libraries]
    return tuple(Contender("floor", name, "floors", "project") for name in names)


@dataclass(frozen=True)
class Cell:
    """One case and pass, and everyone who meets on it."""

    case: Case
    pass_: Pass
    contenders: tuple[Contender, ...]
    part: str  # the table it stands in: narrow, overhead, dense, map, conv

    @property
    def name(self) -> str:
        return f"{self.case.name}, {self.pass_}"


def floor_counts(case: Case, pass_: Pass, method: str) -> dict[str, int]:
    """How often each kind of product runs over all layers: what a method cannot do without."""
    if case.section == "narrow":
        return {}
    verlet = case.scheme == "verlet"
    rounds = 1 + (pass_ == BACKWARD) * (2 if recomputes(method) else 1)
    if verlet:  # forward, recomputed and input gradients each take one y K and one z Kᵀ
        counts = {"apply": rounds, "adjoint": rounds}
        return counts | ({"weight": 2} if pass_ == BACKWARD else {})
    if pass_ == FORWARD:
        return {"apply": 1}
    return {"apply": rounds - 1, "adjoint": 1, "weight": 1}


def recomputes(method: str) -> bool:
    """Whether the backward pass evaluates each layer a second time."""
    return method in ("reversible", "checkpointed", "checkpoint", "coupling")


def narrow(quick: bool) -> list[Cell]:
    """The source's own case: many points in the plane. Quick: without what takes ten seconds a run."""
    case = Case("narrow", "verlet", 2, 3, 10**6, 100, 0.1)
    forward = (STORE_ALL, AUTOGRAD, COMPILED, SCAN, COMPONENTS, DIFFRAX[0])
    strategies = (STORE_ALL, CHECKPOINTED, REVERSIBLE)
    both = Cell(case, BACKWARD, (*strategies, CHECKPOINT, *forward[1:]), "narrow")
    if quick:
        both = _without(both, (CHECKPOINTED, CHECKPOINT, COMPILED, SCAN))
    return [Cell(case, FORWARD, forward, "narrow"), both]


def overhead(quick: bool) -> list[Cell]:
    """The price of a layer when there is nothing to compute."""
    case = Case("narrow", "euler", 2, 2, 1, 1000, 2.0**-4)
    forward = (STORE_ALL, AUTOGRAD, SCAN, *((DIFFRAX[0],) if quick else (COMPILED, *SOLVERS)))
    return [Cell(case, pass_, forward, "overhead") for pass_ in (FORWARD, BACKWARD)]


def dense() -> list[Cell]:
    """The headline of dense layers: Euler and Verlet, forward and with the gradient."""
    sizes = (256, 1024, 100)
    return [*_dense_cells(_euler(*sizes), "dense"), *_dense_cells(_verlet(*sizes), "dense")]


def _dense_cells(case: Case, part: str) -> list[Cell]:
    verlet = case.scheme == "verlet"
    ours = (STORE_ALL, CHECKPOINTED, *((REVERSIBLE,) if verlet else ()))
    solvers = DIFFRAX if verlet else SOLVERS
    products = ("torch", "onednn", "numpy")
    once = ("apply", "adjoint") if verlet else ("apply",)
    forward = (STORE_ALL, AUTOGRAD, COMPILED, SCAN, *solvers, *_floors(once, products))
    kinds = ("apply", "adjoint", "weight")
    both = (*ours, AUTOGRAD, CHECKPOINT, COMPILED, SCAN, *solvers, *_floors(kinds, products))
    return [Cell(case, FORWARD, forward, part), Cell(case, BACKWARD, both, part)]


def _spared(cell: Cell) -> bool:
    """No target asks for it."""
    return cell.case.scheme == "verlet" and cell.pass_ == FORWARD


WIDTHS, BATCHES, DEPTHS = (2, 8, 32, 128, 512), (256, 4096), (100, 1000)
QUICK_MAP = ((8, 256, 100), (32, 4096, 100), (128, 256, 100), (512, 256, 100))


SPARED = (TORCHDIFFEQ[1], DIFFRAX[1], CHECKPOINT, COMPILED)


def dense_map(quick: bool) -> list[Cell]:
    """Width × batch × depth. Quick: Euler, forward + backward, four cells, the faster peers."""
    if quick:
        cells = [_dense_cells(_euler(*sizes), "map")[1] for sizes in QUICK_MAP]
        return [_without(cell, SPARED) for cell in cells]
    sizes = [(width, batch, depth) for width in WIDTHS for batch in BATCHES for depth in DEPTHS]
    cases = [case for each in sizes for case in (_euler(*each), _verlet(*each))]
    return [cell for case in cases for cell in _dense_cells(case, "map")]


def _euler(width: int, batch: int, depth: int) -> Case:
    return Case("dense", "euler", width, width, batch, depth, 2.0**-4)


def _verlet(width: int, batch: int, depth: int) -> Case:
    return Case("dense", "verlet", width, width, batch, depth, 2.0**-4, split=True)


def _without(cell: Cell, spared: tuple[Contender, ...]) -> Cell:
    return replace(cell, contenders=tuple(one for one in cell.contenders if one not in spared))


def convolution(quick: bool) -> list[Cell]:
    """Verlet of convolutions; the headline is 16 channels each on 64³ points."""
    if quick:
        sizes = [(3, 16, 64, 1, 8)]
    else:
        grids = ((2, 64, 4), (3, 32, 1))
        sizes = [(d, c, s, b, n) for d, s, b in grids for c in (8, 16, 32) for n in (8, 32)]
        sizes += [(3, 16, 64, 1, 8), (3, 16, 64, 1, 32)]
    cells = []
    for dim, channels, side, batch, depth in sizes:
        case = _convolution_case(dim, channels, side, batch, depth)
        found = _convolution_cells(case)
        cells += [_without(found[1], (CHECKPOINT, COMPILED))] if quick else found
    return cells


def _convolution_case(dim: int, channels: int, side: int, batch: int, depth: int) -> Case:
    sizes = (channels, channels, batch, depth, 2.0**-4, dim, side)
    return Case("conv", "verlet", *sizes, split=True)


def _convolution_cells(case: Case) -> list[Cell]:
    libraries = ("channels_last", "contiguous", "onednn")
    peers = (AUTOGRAD, CHECKPOINT, COMPILED, MEMCNN, IUNETS, MONAI)
    forward = (STORE_ALL, AUTOGRAD, COMPILED, MEMCNN, IUNETS, MONAI)
    kinds = ("apply", "adjoint", "weight")
    return [
        Cell(case, FORWARD, (*forward, *_floors(kinds[:2], libraries)), "conv"),
        Cell(
            case,
            BACKWARD,
            (STORE_ALL, CHECKPOINTED, REVERSIBLE, *peers, *_floors(kinds, libraries)),
            "conv",
        ),
    ]


def memory(quick: bool) -> list[Cell]:
    """Bytes saved and resident growth of a pass, each in a fresh process."""
    euler, verlet = dense()[1], dense()[3]
    if quick:
        few = (STORE_ALL, CHECKPOINTED, REVERSIBLE, AUTOGRAD, MEMCNN)
        return [
            Cell(euler.case, BACKWARD, (STORE_ALL, CHECKPOINTED, AUTOGRAD, SCAN), "memory"),
            *(
                Cell(_convolution_case(2, 16, 64, 4, depth), BACKWARD, few, "memory")
                for depth in (8, 32)
            ),
        ]
    cases = [_convolution_case(3, 16, 64, 1, depth) for depth in (8, 32, 128)]
    cells = [euler, verlet, *(_convolution_cells(case)[1] for case in cases)]
    return [_without_floors(cell) for cell in cells]


def _without_floors(cell: Cell) -> Cell:
    contenders = tuple(one for one in cell.contenders if not one.is_floor)
    return replace(cell, contenders=contenders, part="memory")


PARTS = ("narrow", "dense", "map", "conv", "memory")


def cells(part: str, quick: bool) -> list[Cell]:
    """Of one part that ``--only`` can name."""
    if part == "narrow":
        return narrow(quick) + overhead(quick)
    if part == "dense":
        spared = (DIFFRAX[1], CHECKPOINT) if quick else ()
        return [_without(one, spared) for one in dense() if not (quick and _spared(one))]
    if part == "map":
        return dense_map(quick)
    if part == "memory":
        return memory(quick)
    return convolution(quick)
