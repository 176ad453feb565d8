"""Laws of the engines on a GPU, and as much of them as holds on the processor too.

The passes of a GPU are operations of torch, so they run on the processor when asked to: plain, and
compiled where there is a compiler of C++. What only a GPU can show is skipped without one.
"""

from __future__ import annotations

import functools
import itertools
import math
import shutil
import warnings

import pytest
import torch
from problems import SCHEMES, check_alike, choice_of, pulled, randn
from torch import Tensor

import keelnet as kn
from keelnet.dynamics.activations import KNOWN
from keelnet.dynamics.kernels import DenseKernel
from keelnet.dynamics.norms import ChannelNorm, InstanceNorm
from keelnet.propagation.engines import block_loop, choice, conv, dense, device_passes, passes
from keelnet.propagation.engines import passes as passes_module
from keelnet.propagation.engines.slopes import BY_ARGUMENT, BY_VALUE
from keelnet.propagation.problem import Problem

H = 0.1
STRATEGIES = [kn.store_all, kn.checkpointed, kn.reversible]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
COMPILES = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
)


TAKEN = [
    (name, key)
    for name in ("dense", "conv")
    for key, scheme in SCHEMES.items()
    if choice_of(name, scheme) is not None
]
EVERY = pytest.mark.parametrize(("name", "key"), TAKEN, ids=[f"{n}: {k}" for n, k in TAKEN])
EACH_STRATEGY = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: each.__name__)


@pytest.fixture(autouse=True)
def plain_products(monkeypatch):
    """Sweeps over torch's products, in full precision on a GPU too."""
    monkeypatch.setattr(block_loop, "FEWEST", 1 << 60)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def compiler(monkeypatch) -> device_passes.Compiler:
    """The passes of a GPU on the processor, by a compiler that has compiled nothing yet."""
    monkeypatch.setattr(passes, "_compiled", passes._of_device)
    fresh = device_passes.Compiler()
    monkeypatch.setattr(device_passes, "COMPILER", fresh)
    return fresh


@pytest.fixture
def uncompiled(compiler) -> None:
    compiler.failure = "not to be used"


@pytest.fixture
def without_numba(monkeypatch) -> None:
    monkeypatch.setattr(passes, "_compiled", lambda *_: None)


def check_law(scheme, name: str, strategy, device: str = "cpu", dtypes=tuple(TOLERANCE)) -> None:
    """Value and gradients are those of the reference on the same device."""
    if strategy is kn.reversible and not scheme.reversible:
        return
    for dtype in dtypes:
        sizes = {"dtype": dtype, "batch": 5, "device": device}
        found = pulled(scheme, strategy, under=kn.engine(name), **sizes)
        wanted = pulled(scheme, strategy, under=kn.engine("reference"), **sizes)
        check_alike(found, wanted, TOLERANCE[dtype])


def test_the_laws_run_over_every_scheme_of_moves():
    for name, count in (("dense", 25), ("conv", 25)):
        assert len([each for each in TAKEN if each[0] == name]) >= count


@ON_GPU
@EACH_STRATEGY
@EVERY
def test_on_a_gpu_values_and_gradients_are_those_of_the_reference(name, key, strategy):
    check_law(SCHEMES[key], name, strategy, "cuda")


@ON_GPU
@EVERY
def test_on_a_gpu_paths_are_those_of_the_reference(name, key):
    scheme = SCHEMES[key]
    y0 = scheme.case.y0(3).cuda()
    controls = {each: value.cuda() for each, value in scheme.case.controls(6).items()}
    paths = []
    for engine in (name, "reference"):
        with kn.engine(engine):
            paths.append(kn.trajectory(scheme.integrator, scheme.field, y0, controls, H))
    for found, wanted in zip(*paths, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@ON_GPU
def test_on_a_gpu_a_learned_damping_gets_its_gradient():
    y0, weight = randn(6, 4).cuda(), randn(5, 4, 4, seed=1).cuda()
    slopes = []
    for engine in ("dense", "reference"):
        damping = torch.tensor(0.4, dtype=torch.float64, device="cuda", requires_grad=True)
        field = kn.AntisymmetricField(kn.DenseKernel(4), damping=damping)
        with kn.engine(engine):
            value = kn.propagate(kn.Euler(), field, y0, {"weight": weight}, H, checked=False)
        slopes.append(torch.autograd.grad(value.square().sum(), damping)[0])
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=0)


@ON_GPU
def test_on_a_gpu_the_passes_are_compiled(monkeypatch):
    pytest.importorskip("triton")
    compiler = device_passes.Compiler()
    monkeypatch.setattr(device_passes, "COMPILER", compiler)
    check_law(SCHEMES["verlet on hamiltonian"], "dense", kn.reversible, "cuda")
    assert compiler.failure is None


@ON_GPU
def test_on_a_gpu_products_in_bfloat16_are_refused():
    scheme = SCHEMES["verlet on hamiltonian conv2"]
    y0 = scheme.case.y0(dtype=torch.float32).cuda()
    controls = {
        each: value.cuda() for each, value in scheme.case.controls(2, dtype=torch.float32).items()
    }
    with kn.engine(products="bfloat16"), pytest.raises(ValueError, match="on the processor"):
        scheme.run(y0, controls, H)


@pytest.mark.usefixtures("uncompiled")
@EACH_STRATEGY
@EVERY
def test_formulas_of_passes_keep_the_law(name, key, strategy):
    check_law(SCHEMES[key], name, strategy)


@pytest.mark.usefixtures("without_numba")
@EACH_STRATEGY
@EVERY
def test_passes_without_numba_keep_the_law(name, key, strategy):
    check_law(SCHEMES[key], name, strategy)


@COMPILES
@pytest.mark.parametrize(
    ("name", "key"), [("dense", "verlet on hamiltonian"), ("conv", "verlet on hamiltonian normed")]
)
def test_compiled_passes_keep_the_law(name, key, compiler):
    check_law(SCHEMES[key], name, kn.reversible, dtypes=(torch.float64,))
    assert compiler.failure is None and compiler._kernels


ROWS, CHANNELS, SAMPLES = 6, 5, 2
PASSES = {
    "bend": lambda x: (x(1), x(2, 0), x(3, 0), x(4), x(5), x(6), 0.3, SAMPLES),
    "bend in place": lambda x: (x(1), None, None, x(4), x(4), x(1), 0.3, SAMPLES),
    "pull": lambda x: (x(1), x(2), x(3), x(4, 0), 0.3),
    "pull one sum": lambda x: (x(1), x(2), x(2), x(4, 0)[3], 0.3),
    "unbend": lambda x: (x(1), x(2, 0), x(3), x(4), x(1), x(5, 0), 0.3),
    "unnorm": lambda x: (x(1), x(2), x(3, 0), x(2), x(4, 0), SAMPLES),
}


def written(work: str, activation: str, norm, made: str) -> list[Tensor]:
    """Every array after the pass, by the passes of a GPU or, from autograd, without Numba."""
    arrays: dict[int, Tensor] = {}

    def array(seed: int, axes: int = 1) -> Tensor:
        shape = (ROWS, CHANNELS) if axes else (CHANNELS,)
        return arrays.setdefault(seed, randn(*shape, seed=seed))

    arguments = PASSES[work](array)
    if made == "device":
        owner = device_passes.DevicePasses(activation, norm)
    else:
        owner = passes.Passes(KNOWN[activation], norm, torch.float64)
    getattr(owner, work.split()[0])(*arguments)
    return list(arrays.values())


def check_passes(activation: str, norm) -> None:
    for work in PASSES:
        if (norm is None) == (work == "unnorm") or (norm is not None and work == "unbend"):
            continue
        found = written(work, activation, norm, "device")
        wanted = written(work, activation, norm, "torch")
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("norm", [None, ChannelNorm(), InstanceNorm()], ids=str)
@pytest.mark.parametrize("activation", KNOWN)
def test_formulas_are_those_that_autograd_finds(activation, norm, uncompiled, monkeypatch):
    monkeypatch.setattr(passes, "_compiled", lambda *_: None)
    check_passes(activation, norm)


# Each kernel costs a second to compile: a slope by the value, one by the argument, one norm.
@COMPILES
@pytest.mark.parametrize(
    ("activation", "norm"), [("tanh", None), ("gelu", None), ("elu", ChannelNorm())], ids=str
)
def test_compiled_passes_are_the_formulas(activation, norm, compiler, monkeypatch):
    monkeypatch.setattr(passes, "_compiled", lambda *_: None)
    check_passes(activation, norm)
    assert compiler.failure is None and compiler._kernels


def test_every_slope_is_known():
    assert BY_VALUE.keys() | BY_ARGUMENT.keys() == KNOWN.keys()
    assert not BY_VALUE.keys() & BY_ARGUMENT.keys()
    far = torch.tensor([-800.0, -30.0, -0.0, 0.0, 19.0, 21.0, 800.0], dtype=torch.float64)
    for name, slope in BY_ARGUMENT.items():
        x = far.clone().requires_grad_()
        wanted = torch.autograd.grad(KNOWN[name](x).sum(), x)[0]
        torch.testing.assert_close(slope(far), wanted, rtol=1e-14, atol=1e-300)


def test_sizes_and_what_arrays_are_views_of_ask_for_no_other_kernel(compiler, monkeypatch):
    """torch gives a function up that it has compiled eight times."""
    counted = []

    def count(graph, _):
        counted.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
    owner = device_passes.DevicePasses("tanh", ChannelNorm())
    for depth, *sizes in itertools.product((3, 4, 6, 9), (2, 3, 6), (2, 3, 4)):
        shape = (depth, *sizes)
        wholes = [(math.prod(shape),), shape, (1, *shape)]  # what the arrays are views of
        for first, second in itertools.product(wholes, wholes):
            moved, kept = torch.zeros(first).view(shape), torch.zeros(second).view(shape)
            pre, bias = torch.zeros(sizes), torch.zeros(depth, sizes[1])
            for at in (1, 2):
                target, dest = moved[at - 1], moved[at]
                owner.bend(pre, bias[at], None, target, dest, kept[at], 0.1 * depth, 1)
    assert compiler.failure is None, len(counted)


def no_triton(*_) -> None:
    raise torch._dynamo.exc.TorchDynamoException("Cannot find Triton\n\nSet TORCH_LOGS")


def no_compiler(*_, **__) -> None:
    raise RuntimeError("torch.compile is not supported on Python 4")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(lambda *_, **__: no_triton, r"Cannot find Triton\. "), (no_compiler, "on Python 4")],
    ids=["when called", "at once"],
)
def test_without_a_compiler_passes_run_plain_and_say_so_once(fault, reason, compiler, monkeypatch):
    import torch._dynamo.exc

    monkeypatch.setattr(torch, "compile", fault)
    with pytest.warns(RuntimeWarning, match=f"torch.compile failed: .*{reason}") as caught:
        check_law(SCHEMES["verlet on hamiltonian"], "dense", kn.reversible)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_law(SCHEMES["verlet on hamiltonian conv2"], "conv", kn.store_all)


def on_meta(scheme, strategy) -> Problem:
    """The problem on the device that has shapes and no memory; it refuses to be mixed with another."""
    y0, controls = scheme.case.y0(dtype=torch.float32), scheme.case.controls(3, dtype=torch.float32)
    state = tuple(part.to("meta") for part in scheme.state(y0))
    controls = {name: value.to("meta") for name, value in controls.items()}
    field = scheme.integrator.adapted(scheme.field)
    return Problem(scheme.integrator, field, state, controls, H, 3, strategy)


@EACH_STRATEGY
@EVERY
def test_everything_is_allocated_on_the_device_of_the_state(
    name, key, strategy, uncompiled, monkeypatch
):
    if strategy is kn.reversible and not SCHEMES[key].reversible:
        return
    monkeypatch.setattr(passes, "_compiled", no_compiler)  # the processor's
    engine, problem = (
        {"dense": dense.Dense(), "conv": conv.Conv()}[name],
        on_meta(SCHEMES[key], strategy),
    )
    with torch.no_grad():
        final, kept = engine.forward(problem, remembers=True)
        ends, last = problem, ()
        if strategy is kn.reversible:
            ends, last = problem.on((*final, *problem.tensors[len(final) :])), final
        costate = tuple(torch.empty_like(part) for part in final)
        wanted = (True,) * len(problem.tensors)
        gradients = engine.backward(ends, last, kept, costate, wanted)
        path = engine.path(problem, [1, 3])
    for each in (*final, *kept, *gradients, *(part for state in path for part in state)):
        assert each is not None and each.device.type == "meta"


def test_devices_that_no_engine_knows_go_to_the_reference():
    problem = on_meta(SCHEMES["verlet on hamiltonian"], kn.store_all)
    grid = on_meta(SCHEMES["verlet on hamiltonian conv2"], kn.store_all)
    assert choice.general_obstacle(problem) == "it is on meta, not on cpu or cuda"
    assert dense.Dense().obstacle(problem) is None and conv.Conv().obstacle(grid) is None
    assert "blocks run on the processor" in dense.Dense().reason(problem)
    assert "on the processor" in str(conv.Conv("bfloat16").obstacle(grid))


def test_tensors_on_two_devices_go_to_the_reference():
    damping = torch.tensor(0.4, dtype=torch.float64, device="meta")
    field = kn.AntisymmetricField(DenseKernel(3), damping=damping)
    controls = {"weight": randn(2, 3, 3)}
    problem = Problem(kn.Euler(), field, (randn(4, 3),), controls, H, 2, kn.store_all)
    assert "more than one device" in str(choice.general_obstacle(problem))


def test_numba_is_not_asked_for_on_a_gpu(monkeypatch):
    monkeypatch.setattr(passes_module, "has_numba", lambda: False)
    found = passes.Passes(KNOWN["tanh"], None, torch.float32, torch.device("cuda"))
    assert isinstance(found._compiled, device_passes.DevicePasses) and found.native
