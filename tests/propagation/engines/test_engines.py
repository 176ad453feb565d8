"""Laws of the engines: the value, the path and every gradient are those of the plain loop."""

from __future__ import annotations

import re
import threading

import pytest
import torch
from problems import FIELDS, SCHEMES, check_alike, choice_of, leaves_of, pulled, randn

import keelnet as kn
from keelnet.propagation.engines import block_loop, choice
from keelnet.propagation.problem import Problem

H = 0.1
STRATEGIES = [kn.store_all, kn.checkpointed, kn.reversible]
NAMES = [
    "narrow",
    "dense",
    "blocks",
    "conv",
    "staged",
]  # blocks: the compiled loop of the dense engine
ON_ROWS = ["narrow", "dense", "blocks"]


def engine_with(name: str) -> str:
    """The engine of this name, or that of the loop of this name."""
    return "dense" if name == "blocks" else name


def using(name: str):
    """Calls take the engine or loop of this name."""
    return kn.engine(engine_with(name))


def both(scheme, name: str, strategy, **sizes):
    """What is pulled under the engine or loop of this name, and under the reference."""
    return [pulled(scheme, strategy, under=using(each), **sizes) for each in (name, "reference")]


@pytest.fixture(autouse=True)
def loop(request, monkeypatch):
    """Which loop the dense engine takes: "dense" stands for the one over torch's products."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    if name in ("dense", "blocks"):
        monkeypatch.setattr(block_loop, "FEWEST", 1 if name == "blocks" else 1 << 60)
        monkeypatch.setattr(block_loop, "WEIGHTS_A_SAMPLE", 1 << 40)


def takes(name: str, scheme) -> bool:
    """Whether the engine or loop takes the scheme."""
    found = choice_of(engine_with(name), scheme, block_loop.FEWEST if name == "blocks" else 2)
    return found is not None and (name != "blocks" or found.reason.endswith(", compiled"))


TAKEN = [(name, key) for name in NAMES for key in SCHEMES if takes(name, SCHEMES[key])]
EVERY_ON_ROWS = pytest.mark.parametrize(
    ("name", "key"), [each for each in TAKEN if each[0] != "conv"], ids=lambda each: each
)
EVERY = pytest.mark.parametrize(("name", "key"), TAKEN, ids=[f"{n}: {k}" for n, k in TAKEN])


def test_every_engine_takes_every_scheme_that_it_promises():
    """Without this the laws below could run over nothing."""
    moved = [
        key
        for key, scheme in SCHEMES.items()
        if not key.startswith(("rk4", "imex"))
        and "module" not in key
        and not (key.startswith("euler") and scheme.case.two_parts)
    ]
    dense = [key for key in moved if not SCHEMES[key].case.space]
    conv = [key for key in moved if SCHEMES[key].case.space]
    assert {key for name, key in TAKEN if name == "conv"} == set(conv)
    assert {key for name, key in TAKEN if name == "dense"} == set(dense)
    for each in ("narrow", "blocks"):
        assert {key for name, key in TAKEN if name == each} == {
            key for key in dense if "normed" not in key
        }
    assert {key for name, key in TAKEN if name == "staged"} == {
        key
        for key, scheme in SCHEMES.items()
        if key.startswith(("rk4", "euler"))
        and key not in moved
        and not scheme.case.space
        and "normed" not in key
        and "module" not in key
    }


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: each.__name__)
@EVERY
def test_values_and_gradients_are_those_of_the_reference(name, key, strategy):
    scheme = SCHEMES[key]
    if strategy is kn.reversible and not scheme.reversible:
        with pytest.raises(ValueError, match="checkpointed"):
            pulled(scheme, strategy, under=using(name))
        return
    check_alike(*both(scheme, name, strategy, batch=5), 1e-13)
    check_alike(*both(scheme, name, strategy, batch=5, dtype=torch.float32), 1e-5)


@pytest.mark.parametrize("batch", [1, 16, 17, 65, 200])
@EVERY_ON_ROWS
def test_tiles_and_threads_leave_no_sample_out(name, key, batch):
    check_alike(*both(SCHEMES[key], name, kn.store_all, depth=3, batch=batch), 1e-13)


@EVERY
def test_paths_are_those_of_the_reference_at_every_layer_and_at_chosen_ones(name, key):
    scheme = SCHEMES[key]
    y0, controls = scheme.case.y0(3), scheme.case.controls(6)
    settings = scheme.integrator, scheme.field, y0, controls, H
    with kn.engine("reference"):
        wanted = kn.trajectory(*settings)
    with using(name):
        found = kn.trajectory(*settings)
        some = kn.trajectory(*settings, layers=[0, 2, 6])
    for states in ((found, wanted), (some, [wanted[0], wanted[2], wanted[6]])):
        for one, other in zip(*states, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@EVERY
def test_higher_derivatives_come_from_the_reference(name, key):
    scheme = SCHEMES[key]

    def slope(y0: torch.Tensor) -> torch.Tensor:
        value = scheme.run(y0, scheme.case.controls(3), 0.1)
        return torch.autograd.grad(value.square().sum(), y0, create_graph=True)[0]

    with using(name):
        assert torch.autograd.gradcheck(slope, (scheme.case.y0().requires_grad_(),), fast_mode=True)


@pytest.mark.parametrize("name", ON_ROWS)
@pytest.mark.parametrize("needs", ["y0", "weight", "bias", "nothing"])
def test_only_what_needs_a_gradient_gets_one(name, needs):
    scheme = SCHEMES["verlet on hamiltonian"]
    y0, controls = scheme.case.y0(4), scheme.case.controls(3)
    inputs = {"y0": y0, **controls}
    gradients = {}
    for each in (name, "reference"):
        with using(each):
            for key, value in inputs.items():
                value.requires_grad_(key == needs)
            value = scheme.run(y0, controls, H)
            assert value.requires_grad == (needs != "nothing")
            if value.requires_grad:
                gradients[each] = torch.autograd.grad(value.square().sum(), inputs[needs])
    if gradients:
        torch.testing.assert_close(gradients[name], gradients["reference"])


@pytest.mark.parametrize("name", ON_ROWS)
def test_strided_and_shared_inputs_are_read_as_they_are(name):
    field = kn.HamiltonianField(kn.DenseKernel(3))
    wide = randn(10, 12, seed=1)
    shared = randn(1, 3, 3, seed=2).expand(4, 3, 3)
    turned = randn(4, 3, 3, seed=3).transpose(1, 2)
    for y0 in (wide[::2, ::4], wide[:, 2:8], wide.T[:3].T, randn(2, 5, 3), randn(3)[None]):
        for weight in (shared, turned, randn(8, 3, 3)[::2]):
            for bias in (randn(4, 1).expand(4, 3), randn(1).expand(4), randn(8, 3)[::2]):
                controls = {"weight": weight, "bias": bias}
                before = [x.clone() for x in (y0, weight, bias)]
                with kn.engine("reference"):
                    wanted = kn.propagate(kn.Verlet(), field, y0, controls, H)
                with using(name):
                    found = kn.propagate(kn.Verlet(), field, y0, controls, H)
                torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
                for now, then in zip((y0, weight, bias), before, strict=True):
                    assert torch.equal(now, then)


@pytest.mark.parametrize("name", ON_ROWS)
def test_a_learned_damping_gets_its_gradient(name):
    y0, weight = randn(6, 4), randn(5, 4, 4, seed=1)
    slopes = []
    for each in (name, "reference"):
        damping = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        field = kn.AntisymmetricField(kn.DenseKernel(4), damping=damping)
        with using(each):
            value = kn.propagate(kn.Euler(), field, y0, {"weight": weight}, H, checked=False)
        slopes.append(torch.autograd.grad(value.square().sum(), damping)[0])
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ON_ROWS)
def test_the_memory_of_a_gradient_can_be_asked_for_twice(name):
    scheme = SCHEMES["verlet on hamiltonian"]
    y0, controls = leaves_of(scheme, 4, batch=3)
    with using(name):
        cost = scheme.run(y0, controls, H).square().sum()
    first = torch.autograd.grad(cost, y0, retain_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(cost, y0))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(cost, y0)


@pytest.mark.parametrize("name", ON_ROWS)
def test_many_threads_of_python_may_propagate_at_once(name):
    scheme = SCHEMES["verlet on hamiltonian"]
    y0, controls = scheme.case.y0(5000), scheme.case.controls(20)
    wanted = scheme.run(y0, controls, H)
    found = []

    def work() -> None:
        with using(name):
            found.extend(scheme.run(y0, controls, H) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    for value in found:
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)


def test_the_choice_says_which_engine_and_why():
    field = kn.SingleField(kn.DenseKernel(3))
    settings = kn.Euler(), field, randn(5, 3), {"weight": randn(4, 3, 3)}, H
    choice = kn.engine_of(*settings)
    assert choice.name == "narrow" and "cache" in str(choice)
    with kn.engine("reference"):
        assert kn.engine_of(*settings).name == "reference"
    wide = (
        kn.Euler(),
        kn.SingleField(kn.DenseKernel(300)),
        randn(5, 300),
        {"weight": randn(2, 300, 300)},
        H,
    )
    choice = kn.engine_of(*wide)
    assert choice.name == "dense" and "narrow" in choice.refused and "not narrow" in str(choice)


def test_what_no_engine_takes_goes_to_the_reference_with_the_reason():
    y0, weight = randn(5, 3), randn(4, 3, 3)
    dense = kn.SingleField(kn.DenseKernel(3))
    implicit = kn.IMEX(kn.DenseDiffusion(torch.eye(3, dtype=y0.dtype)))
    cases = {
        "not a sequence of moves": (implicit, dense, y0, weight),
        "neither float32": (kn.Euler(), dense, y0.bfloat16(), weight.bfloat16()),
        "no samples": (kn.Euler(), dense, y0[:0], weight),
        "keelnet knows": (
            kn.Euler(),
            kn.SingleField(kn.DenseKernel(3), lambda x: x.sin()),
            y0,
            weight,
        ),
    }
    for reason, (method, field, y, w) in cases.items():
        choice = kn.engine_of(method, field, y, {"weight": w}, H)
        assert choice.name == "reference" and reason in str(choice), (reason, str(choice))
        assert kn.propagate(method, field, y, {"weight": w}, H).dtype == y.dtype


def test_an_engine_that_is_asked_for_and_cannot_is_an_error():
    field = kn.SingleField(kn.DenseKernel(3))
    with kn.engine("narrow"), pytest.raises(ValueError, match="cannot take this call"):
        kn.propagate(kn.RK4(), field, randn(5, 3), {"weight": randn(4, 3, 3)}, H)
    with pytest.raises(ValueError, match="engine must be one of auto, narrow"), kn.engine("fast"):
        pass


@pytest.mark.parametrize("asked", choice.NAMES)
def test_what_is_chosen_is_what_is_explained(asked):
    """Whatever is asked for, and whatever stands in its way."""
    y0, weight = randn(5, 3), randn(4, 3, 3)
    dense = kn.SingleField(kn.DenseKernel(3))
    for y, field in ((y0, dense), (y0[:0], dense), (y0, kn.SingleField(kn.DenseKernel(3), "gelu"))):
        problem = Problem(kn.Euler(), field, (y,), {"weight": weight}, H, 4, kn.store_all)
        with kn.engine(asked):
            try:
                found = choice.chosen(problem)
            except ValueError as error:
                with pytest.raises(ValueError, match=re.escape(str(error))):
                    choice.explained(problem)
            else:
                assert choice.explained(problem).name == (
                    "reference" if found is None else found.name
                )


def test_a_subclass_may_have_a_rate_of_its_own():
    class Doubled(kn.SingleField):
        def rate(self, y, theta):
            return 2 * super().rate(y, theta)

    field = Doubled(kn.DenseKernel(3))
    choice = kn.engine_of(kn.Euler(), field, randn(5, 3), {"weight": randn(4, 3, 3)}, H)
    assert choice.name == "reference"


@pytest.mark.parametrize("name", ON_ROWS)
def test_numbers_that_are_not_finite_are_found(name):
    field = kn.SingleField(kn.DenseKernel(2), "relu")
    weight = torch.full((400, 2, 2), 9.0)
    with using(name), pytest.raises(ValueError, match="not finite after layer"):
        kn.propagate(kn.Euler(), field, torch.ones(3, 2), {"weight": weight}, 1.0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 3])
def test_convolutions_take_any_layout(layout, batch):
    scheme = SCHEMES["verlet on hamiltonian conv2"]
    controls = scheme.case.controls(4)
    y0 = scheme.case.y0(batch)
    with kn.engine("reference"):
        wanted = scheme.run(y0, controls, H)
    with kn.engine("conv"):
        for given in (y0.contiguous(memory_format=layout), y0.mT.contiguous().mT):
            torch.testing.assert_close(scheme.run(given, controls, H), wanted)


def test_products_in_bfloat16_keep_the_state_and_come_near():
    scheme = SCHEMES["verlet on hamiltonian conv3"]
    y0, controls = leaves_of(scheme, 6, torch.float32, batch=3)
    with kn.engine(products="bfloat16"):
        assert "bfloat16" in str(kn.engine_of(kn.Verlet(), scheme.field, y0, controls, H))
        value = scheme.run(y0, controls, H, strategy=kn.reversible)
    found = [value, *torch.autograd.grad(value.sum(), [y0, *controls.values()])]
    value = scheme.run(y0, controls, H, strategy=kn.reversible)
    wanted = [value, *torch.autograd.grad(value.sum(), [y0, *controls.values()])]
    check_alike(found, wanted, 3e-2)
    assert not torch.equal(found[0], wanted[0])
    dense = SCHEMES["verlet on hamiltonian"]
    with kn.engine(products="bfloat16"), pytest.raises(ValueError, match="no convolution"):
        dense.run(dense.case.y0(), dense.case.controls(2), H)
    with pytest.raises(ValueError, match="bfloat16"), kn.engine("dense", products="bfloat16"):
        pass


def test_autocast_and_transforms_go_to_the_reference():
    case = FIELDS["single"]
    y0, controls = case.y0(dtype=torch.float32), case.controls(3, dtype=torch.float32)

    def name() -> str:
        return kn.engine_of(kn.Euler(), case.field, y0, controls, H).name

    assert name() == "narrow"
    with torch.autocast("cpu", torch.bfloat16):
        assert name() == "reference"


@pytest.mark.parametrize("transform", ["grad", "vmap", "jacrev"])
@pytest.mark.parametrize(
    "key", ["euler on single", "rk4 on single", "euler on symmetric conv2 3x2"]
)
def test_a_transform_of_other_tensors_leaves_a_call_be(key, transform):
    """A frozen network inside a functional loss: none of the call's own tensors are wrapped."""
    scheme = SCHEMES[key]
    y0, controls = scheme.case.y0(4), scheme.case.controls(3)
    for value in controls.values():
        value.requires_grad_()

    def loss(v):
        return (scheme.run(y0, controls, H) * v).sum()

    v = torch.randn(3, *scheme.run(y0, controls, H).shape, dtype=torch.float64)
    take = {
        "grad": lambda: torch.func.grad(loss)(v[0]),
        "vmap": lambda: torch.func.vmap(loss)(v),
        "jacrev": lambda: torch.func.jacrev(loss)(v[0]),
    }[transform]
    found = take()
    with kn.engine("reference"):
        torch.testing.assert_close(found, take())
