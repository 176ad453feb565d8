"""Laws of strategies: the same value, the same gradient, another memory."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from problems import (
    FIELDS,
    METHODS,
    REVERSIBLE,
    SCHEMES,
    Scheme,
    branch,
    check_alike,
    leaves_of,
    pulled,
    randn,
)
from torch.autograd.graph import saved_tensors_hooks

import keelnet as kn

H = 0.1
PAIRS = [
    pytest.param(SCHEMES[name], strategy, id=f"{strategy.__name__}: {name}")
    for name in SCHEMES
    for strategy in (kn.checkpointed, kn.reversible)
    if strategy is kn.checkpointed or name in REVERSIBLE
]
STRUCTURED = {
    name: SCHEMES[name]
    for name in (
        "verlet on hamiltonian 3x5",
        "verlet half on hamiltonian",
        "verlet on double 3x5",
        "verlet half on double",
        "leapfrog on symmetric 3x5",
        "leapfrog half on symmetric",
        "midpoint on antisymmetric",
        "verlet on hamiltonian conv2",
        "verlet half on hamiltonian conv1 2x3",
        "verlet on double conv3",
        "leapfrog on symmetric conv2 3x2",
        "midpoint on antisymmetric conv1",
    )
}
EVERY_STRUCTURE = pytest.mark.parametrize("scheme", STRUCTURED.values(), ids=STRUCTURED)
DENSE = {name: scheme for name, scheme in STRUCTURED.items() if not scheme.case.space}


@pytest.fixture
def plainly():
    """By the reference: fused engines keep less."""
    with kn.engine("reference"):
        yield


@pytest.fixture(autouse=True, params=["auto", "reference"])
def _engine(request):
    """Every law holds for the engine that is chosen and for the plain one."""
    with kn.engine(request.param):
        yield


EVERY_DENSE = pytest.mark.parametrize("scheme", DENSE.values(), ids=DENSE)
EVERY_STRATEGY = pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])


@pytest.mark.parametrize(("scheme", "strategy"), PAIRS)
def test_values_and_gradients_are_those_of_back_propagation(scheme, strategy):
    found = pulled(scheme, strategy, 12, H)
    check_alike(found, pulled(scheme, kn.store_all, 12, H), 1e-10)


@EVERY_STRUCTURE
def test_gradients_of_200_layers_agree_to_1e_10_in_double_precision(scheme):
    wanted = pulled(scheme, kn.store_all, 200, 0.02)
    for strategy in (kn.checkpointed, kn.reversible):
        check_alike(pulled(scheme, strategy, 200, 0.02), wanted, 1e-10)


@EVERY_STRUCTURE
def test_gradients_of_200_layers_in_single_precision_agree_with_each_other_and_with_double(scheme):
    wanted = pulled(scheme, kn.store_all, 200, 0.02, torch.float32)
    for strategy in (kn.checkpointed, kn.reversible):
        found = pulled(scheme, strategy, 200, 0.02, torch.float32)
        assert torch.equal(found[0], wanted[0])
        check_alike(found, wanted, 1e-4)
    check_alike([x.double() for x in wanted], pulled(scheme, kn.store_all, 200, 0.02), 1e-4)


@pytest.mark.parametrize("name", [n for n in REVERSIBLE if not SCHEMES[n].case.space])
def test_reversible_gradients_are_derivatives(name):
    scheme = SCHEMES[name]
    y0, controls = leaves_of(scheme, 2)

    def final(y0: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(controls, values, strict=True))
        return scheme.run(y0, given, 0.3, strategy=kn.reversible)

    assert torch.autograd.gradcheck(final, (y0, *controls.values()), fast_mode=True)


@pytest.mark.parametrize("depth", [1, 2, 3])
@EVERY_STRATEGY
@EVERY_DENSE
def test_shallow_networks_are_no_exception(scheme, strategy, depth):
    check_alike(pulled(scheme, strategy, depth, H), pulled(scheme, kn.store_all, depth, H), 1e-12)


@pytest.mark.parametrize("strategy", [kn.checkpointed, kn.reversible])
@EVERY_DENSE
def test_a_gradient_is_computed_for_what_asks_for_it(scheme, strategy):
    everything, controls = leaves_of(scheme, 5)
    for wanted in ("y0", *controls):
        gradients = []
        for each in (strategy, kn.store_all):
            y0, given = everything.detach(), {n: v.detach() for n, v in controls.items()}
            leaf = y0 if wanted == "y0" else given[wanted]
            leaf.requires_grad_()
            value = scheme.run(y0, given, H, strategy=each)
            gradients.append(torch.autograd.grad(value.square().sum(), leaf)[0])
            others = [x for x in (y0, *given.values()) if x is not leaf]
            assert not any(x.requires_grad for x in others)
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@EVERY_STRATEGY
@EVERY_DENSE
def test_without_gradients_only_the_value_remains(scheme, strategy):
    y0, controls = leaves_of(scheme, 5)
    expected = scheme.run(y0, controls, H)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            value = scheme.run(y0, controls, H, strategy=strategy)
        assert not value.requires_grad
        torch.testing.assert_close(value.clone(), expected.detach(), rtol=0, atol=0)


@EVERY_STRATEGY
def test_one_tensor_may_serve_as_two_controls(strategy):
    case = FIELDS["double"]
    weight = randn(4, 3, 3).requires_grad_()
    apart = [weight.detach().clone().requires_grad_() for _ in range(2)]
    final = []
    for first, second in ((weight, weight), apart):
        controls = {"weight_1": first, "weight_2": second}
        value = kn.propagate(kn.Verlet(), case.field, case.y0(), controls, H, strategy=strategy)
        final.append(value)
        value.square().sum().backward()
    torch.testing.assert_close(*final)
    torch.testing.assert_close(weight.grad, apart[0].grad + apart[1].grad)


@EVERY_STRATEGY
def test_gradients_flow_through_refined_knots(strategy):
    """Fewer knots than layers: θ between knots depends on two of them."""
    case = FIELDS["hamiltonian"]
    control = kn.Control(case.controls(3))

    value = kn.propagate(
        kn.Verlet(), case.field, case.y0(), control.at_layers(7), H, strategy=strategy
    )
    value.square().sum().backward()
    weight = control.values()["weight"]
    step = 1e-6 * randn(*weight.shape, seed=3)
    changed = []
    for sign in (1, -1):
        with torch.no_grad():
            moved = kn.Control(control.values() | {"weight": weight + sign * step})
            y = kn.propagate(kn.Verlet(), case.field, case.y0(), moved.at_layers(7), H)
        changed.append(float(y.square().sum()))
    slope = (changed[0] - changed[1]) / 2
    assert float((weight.grad * step).sum()) == pytest.approx(slope, rel=1e-6)


@EVERY_DENSE
def test_a_second_derivative_through_reversible_is_a_clear_error(scheme):
    y0, controls = leaves_of(scheme, 4)
    value = scheme.run(y0, controls, H, strategy=kn.reversible)
    (gradient,) = torch.autograd.grad(value.square().sum(), y0, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.square().sum().backward()


LOSSES = {"linear": lambda y: y[:, 0].sum(), "quadratic": lambda y: y.square().sum()}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_no_way_to_a_second_derivative_through_reversible_gives_a_wrong_one(engine, loss):
    """A loss without curvature needs no graph of its costate, and a Hessian asks past the gradient's own node."""
    field = kn.HamiltonianField(kn.DenseKernel(2), "tanh")
    weight, y0 = randn(3, 2, 2), randn(4, 2, seed=1)

    def value(y0: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return loss(kn.propagate(kn.Verlet(), field, y0, {"weight": weight}, 0.5, kn.reversible))

    with kn.engine(engine):
        with pytest.raises(RuntimeError, match="differentiate twice"):
            torch.autograd.functional.hessian(lambda y: value(y, weight), y0)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            torch.autograd.functional.hessian(lambda w: value(y0, w), weight)
        for leaf in (weight, y0):
            leaf.requires_grad_()
        (slope,) = torch.autograd.grad(value(y0, weight), y0, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            (weight.square().sum() + slope.square().sum()).backward()


def test_a_forward_derivative_in_one_thread_is_none_of_another_ones():
    y0, controls = randn(3, 2).requires_grad_(), {"weight": randn(2, 2, 2)}
    field = kn.HamiltonianField(kn.DenseKernel(2), "tanh")
    value = kn.propagate(kn.Verlet(), field, y0, controls, 0.3, kn.reversible).square().sum()
    with torch.autograd.forward_ad.dual_level(), ThreadPoolExecutor(1) as pool:
        pool.submit(value.backward).result()
    assert y0.grad is not None and bool(y0.grad.any())


@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed])
@EVERY_DENSE
def test_other_strategies_may_be_differentiated_twice(scheme, strategy):
    def slope(y0: torch.Tensor) -> torch.Tensor:
        value = scheme.run(y0, scheme.case.controls(3), 0.3, strategy=strategy)
        return torch.autograd.grad(value.square().sum(), y0, create_graph=True)[0]

    assert torch.autograd.gradcheck(slope, (scheme.case.y0().requires_grad_(),), fast_mode=True)


def kept_bytes(scheme: Scheme, strategy, depth: int) -> int:
    """Bytes that the forward pass leaves for the backward pass, each storage once, inputs aside."""
    y0, controls = leaves_of(scheme, depth, torch.float32)
    given = {x.untyped_storage().data_ptr() for x in (y0, *controls.values())}
    storages = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        value = scheme.run(y0, controls, 0.01, strategy=strategy)
    assert value.requires_grad
    return sum(s.nbytes() for pointer, s in storages.items() if pointer not in given)


@EVERY_STRUCTURE
def test_reversible_keeps_no_more_for_1024_layers_than_for_8(scheme):
    few, many = (kept_bytes(scheme, kn.reversible, depth) for depth in (8, 1024))
    assert 0 < many <= 1.05 * few


def living() -> dict[int, torch.Tensor]:
    """All tensors of Python, which are not to go while they are looked at."""
    gc.collect()
    return {id(x): x for x in gc.get_objects() if type(x) is torch.Tensor}


def held_bytes(scheme: Scheme, strategy, depth: int) -> int:
    """What lives on after the forward pass, inputs aside: whatever holds it, each storage once."""
    pytest.importorskip("numba")
    y0, controls = leaves_of(scheme, depth, torch.float32)
    given = {x.untyped_storage().data_ptr() for x in (y0, *controls.values())}
    before = living()
    with saved_tensors_hooks(lambda x: x, lambda x: x):  # so that Python knows of what is saved
        value = scheme.run(y0, controls, 0.01, strategy=strategy)
    made = [x.untyped_storage() for each, x in living().items() if each not in before]
    assert value.requires_grad
    sizes = {storage.data_ptr(): storage.nbytes() for storage in made}
    return sum(size for pointer, size in sizes.items() if pointer not in given)


@pytest.mark.parametrize(
    ("_engine", "name"),
    [
        ("narrow", "verlet on hamiltonian 3x5"),
        ("dense", "verlet on hamiltonian 3x5"),
        ("conv", "verlet on hamiltonian conv2"),
    ],
    indirect=["_engine"],
)
def test_an_engine_holds_no_more_for_1024_layers_than_for_8(name):
    """Also by other ways than autograd's own."""
    few, many = (held_bytes(SCHEMES[name], kn.reversible, depth) for depth in (8, 1024))
    assert 0 < many <= 1.05 * few + 4096


@pytest.mark.parametrize("_engine", ["dense"], indirect=True)
def test_what_an_engine_holds_under_store_all_is_seen():
    scheme = SCHEMES["verlet on hamiltonian 3x5"]
    few, many = (held_bytes(scheme, kn.store_all, depth) for depth in (8, 1024))
    assert many > 100 * few


def alive(shape: torch.Size) -> int:
    """Tensors of this shape that Python still holds, one for each storage."""
    gc.collect()
    found = [x for x in gc.get_objects() if type(x) is torch.Tensor and x.shape == shape]
    return len({x.untyped_storage().data_ptr() for x in found})


@pytest.mark.parametrize("name", ["verlet on hamiltonian 3x5", "euler on single conv3"])
def test_checkpointed_holds_as_many_states_as_the_root_of_the_depth(name, plainly):
    """Between the layers: what it saves inside of one is thrown away and computed again."""
    scheme = SCHEMES[name]
    shape = scheme.state(scheme.case.y0())[0].shape
    held = []
    for depth in (16, 1024):
        y0, controls = leaves_of(scheme, depth)
        before = alive(shape)
        value = scheme.run(y0, controls, 0.01, strategy=kn.checkpointed)
        held.append(alive(shape) - before)
        del value
    assert held[0] == pytest.approx(4, abs=1)
    assert held[1] == pytest.approx(32, abs=1)
    assert kept_bytes(scheme, kn.checkpointed, 1024) <= kept_bytes(scheme, kn.checkpointed, 16)


@pytest.mark.parametrize("name", ["verlet on hamiltonian 3x5", "euler on single conv3"])
def test_store_all_keeps_every_layer(name, plainly):
    """What the others save: without this the laws above would say little."""
    few, many = (kept_bytes(SCHEMES[name], kn.store_all, depth) for depth in (16, 1024))
    assert many == pytest.approx(64 * few, rel=0.1)


class Counted:
    """tanh that knows how often it was called, once for each evaluation of a rate, and in which types."""

    def __init__(self) -> None:
        self.calls = 0
        self.dtypes: set[torch.dtype] = set()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.dtypes.add(x.dtype)
        return torch.tanh(x)


@EVERY_DENSE
def test_each_rate_is_evaluated_once_in_the_backward_pass(scheme):
    depth, tanh = 30, Counted()
    counted = Scheme(scheme.method, scheme.case.activated(tanh))
    with torch.no_grad():
        counted.run(scheme.case.y0(), scheme.case.controls(depth), H)
    forward, tanh.calls = tanh.calls, 0
    y0, controls = leaves_of(scheme, depth)
    value = counted.run(y0, controls, H, strategy=kn.reversible)
    assert tanh.calls <= forward * (1 + 1 / depth)  # one layer more, to look for hidden parameters
    tanh.calls = 0
    value.sum().backward()
    assert tanh.calls == forward


@EVERY_STRATEGY
@EVERY_STRUCTURE
def test_autocast_keeps_the_state_in_single_precision(scheme, strategy):
    exact = pulled(scheme, kn.store_all, 20, 0.05, torch.float32)
    y0, controls = leaves_of(scheme, 20, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = scheme.run(y0, controls, 0.05, strategy=strategy)
    assert value.dtype == torch.float32
    push = randn(*value.shape, seed=5, dtype=torch.float32)
    gradients = torch.autograd.grad((value * push).sum(), [y0, *controls.values()])
    assert not torch.equal(value, exact[0])  # the rates were those of bfloat16
    check_alike([value, *gradients], exact, 0.03)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@EVERY_STRATEGY
@EVERY_STRUCTURE
def test_features_that_come_in_half_precision_are_moved_in_single_precision_under_autocast(
    scheme, strategy, half
):
    """As an opening layer gives them: the increments of a layer would vanish in 8 bits."""
    y0, controls = leaves_of(scheme, 6, torch.float32)
    y0 = y0.detach().to(half).requires_grad_()
    ends = []
    with torch.autocast("cpu", torch.bfloat16):
        for given in (y0, y0.detach().float()):
            ends.append(scheme.run(given, controls, H, strategy=strategy))
        path = kn.trajectory(scheme.integrator, scheme.field, y0, controls, H)
    assert ends[0].dtype == torch.float32 and torch.equal(*ends)
    assert {part.dtype for state in path for part in state} == {torch.float32}
    (gradient,) = torch.autograd.grad(ends[0].sum(), y0)
    assert gradient.dtype == half and bool(gradient.any())


@pytest.mark.parametrize("strategy", [kn.checkpointed, kn.reversible])
@EVERY_DENSE
def test_the_backward_pass_computes_in_the_types_of_the_forward_pass(scheme, strategy):
    """Also where it is called outside of autocast, or inside of another one."""
    tanh = Counted()
    spied = Scheme(scheme.method, scheme.case.activated(tanh))
    y0, controls = leaves_of(scheme, 6, torch.float32)
    weights = {name: value for name, value in controls.items() if name.startswith("weight")}
    for within in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=within):
            value = spied.run(y0, weights, H, strategy=strategy)
        tanh.dtypes.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=not within):
            value.sum().backward()
        assert tanh.dtypes == {torch.bfloat16 if within else torch.float32}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@EVERY_STRATEGY
@EVERY_STRUCTURE
def test_half_precision_features_stay_so_and_give_gradients(scheme, strategy, dtype):
    found = pulled(scheme, strategy, 8, 0.05, dtype)
    assert {x.dtype for x in found} == {dtype}
    exact = pulled(scheme, kn.store_all, 8, 0.05)
    check_alike([x.double() for x in found], exact, 20 * torch.finfo(dtype).eps)


def test_hidden_parameters_are_refused_under_reversible_and_found_by_the_others():
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for name, scheme in DENSE.items():
        hidden = Scheme(scheme.method, scheme.case.activated(lambda x: torch.tanh(scale * x)))
        y0, controls = scheme.case.y0(), scheme.case.controls(4)
        with pytest.raises(ValueError, match="needs a gradient but is no control"):
            hidden.run(y0, controls, H, strategy=kn.reversible)
        gradients = [
            torch.autograd.grad(hidden.run(y0, controls, H, strategy=each).sum(), scale)[0]
            for each in (kn.store_all, kn.checkpointed)
        ]
        assert float(gradients[0]) != 0, name
        torch.testing.assert_close(*gradients)
        with torch.no_grad():
            hidden.run(y0, controls, H, strategy=kn.reversible)


@pytest.mark.parametrize("name", ["euler", "rk4", "imex cholesky"])
def test_methods_that_are_no_shears_are_refused_under_reversible(name):
    case = FIELDS["symmetric"]
    wanted = r"is not a sequence of shears.*; use strategy=kn\.checkpointed"
    with pytest.raises(ValueError, match=wanted):
        kn.propagate(
            METHODS[name].integrator,
            case.field,
            case.y0(),
            case.controls(2),
            H,
            strategy=kn.reversible,
        )


@pytest.mark.filterwarnings("ignore::keelnet.propagation.integrators.StabilityWarning")
@pytest.mark.parametrize("name", ["antisymmetric damped", "symmetric"])
def test_contracting_fields_are_refused_under_reversible_midpoint(name):
    case = FIELDS[name]
    wanted = r"Field contracts, so stepping back amplifies .*; use strategy=kn\.checkpointed"
    with pytest.raises(ValueError, match=wanted):
        kn.propagate(
            kn.Midpoint(), case.field, case.y0(), case.controls(2), H, strategy=kn.reversible
        )


def test_strategies_compose_with_what_comes_before_and_after():
    """y0 from an opening layer and a loss that reads y twice: the chain rule goes through."""
    case = FIELDS["hamiltonian 3x5"]
    opening = branch(3)
    gradients = []
    for strategy in (kn.store_all, kn.checkpointed, kn.reversible):
        opening.zero_grad()
        y = kn.propagate(
            kn.Verlet(), case.field, opening(randn(4, 3)), case.controls(6), H, strategy=strategy
        )
        (y.square().sum() + y.sin().sum()).backward()
        gradients.append([value.grad.clone() for value in opening.parameters()])
    for other in gradients[1:]:
        check_alike(other, gradients[0], 1e-12)


def test_a_backward_pass_may_be_repeated_where_the_graph_is_kept():
    scheme = STRUCTURED["verlet on double 3x5"]
    y0, controls = leaves_of(scheme, 5)
    value = scheme.run(y0, controls, H, strategy=kn.reversible).sum()
    once = torch.autograd.grad(value, [y0, *controls.values()], retain_graph=True)
    again = torch.autograd.grad(value, [y0, *controls.values()])
    for one, other in zip(once, again, strict=True):
        assert torch.equal(one, other)


def test_a_batch_of_gradients_with_a_graph_is_refused_in_words():
    field = kn.HamiltonianField(kn.DenseKernel(2), "tanh")
    y0, weight = randn(4, 2).requires_grad_(), randn(3, 2, 2)
    with kn.engine("reference"):
        y = kn.propagate(kn.Verlet(), field, y0, {"weight": weight}, 0.5, kn.reversible)
        with pytest.raises(RuntimeError, match="a batch of gradients at once"):
            torch.autograd.grad(y, y0, randn(3, 4, 2), create_graph=True, is_grads_batched=True)


EVERY_TRANSFORM = {
    "grad": lambda f, y: torch.func.grad(lambda y: f(y).sum())(y),
    "jacrev": lambda f, y: torch.func.jacrev(f)(y),
    "by sample": lambda f, y: torch.func.vmap(torch.func.grad(lambda y: f(y[None]).sum()))(y),
    "jvp": lambda f, y: torch.func.jvp(f, (y,), (y,))[1],
    "vmap": lambda f, y: torch.func.vmap(lambda y: f(y[None]))(y),
}
FORWARD = ("jvp", "vmap")
WAY_OUT = r"has no way through .* use strategy=kn\.store_all"


@pytest.mark.parametrize("strategy", [kn.checkpointed, kn.reversible])
@pytest.mark.parametrize("name", EVERY_TRANSFORM)
def test_transforms_without_a_way_through_a_strategy_are_refused_in_words(name, strategy):
    weight, y0 = randn(3, 2, 2), randn(4, 2)
    field, transform = kn.HamiltonianField(kn.DenseKernel(2)), EVERY_TRANSFORM[name]

    def final(y, strategy=strategy):
        return kn.propagate(
            kn.Verlet(), field, y, {"weight": weight}, H, strategy, 3, checked=False
        )

    expected = transform(lambda y: final(y, kn.store_all), y0)
    if strategy is kn.checkpointed and name in FORWARD:
        torch.testing.assert_close(transform(final, y0), expected)
        weight.requires_grad_()  # for a gradient that is taken after the transform
        transform(lambda y: final(y, kn.store_all), y0).sum().backward()
        assert bool(weight.grad.any())
    with pytest.raises(ValueError, match=WAY_OUT):
        transform(final, y0)
    with torch.no_grad():
        if name in FORWARD:
            torch.testing.assert_close(transform(final, y0), expected)


@pytest.mark.parametrize("place", ["features", "direction", "past the arguments"])
def test_what_needs_a_gradient_is_found_behind_every_transform(place):
    """Two of them, one within the other; the direction alone, or what is no argument."""
    y0, push, controls = randn(4, 2), randn(4, 2, seed=1), {"weight": randn(3, 2, 2)}
    scale = torch.tensor(0.7, dtype=torch.float64)
    field = kn.HamiltonianField(kn.DenseKernel(2), lambda x: torch.tanh(scale * x))
    leaf = {"features": y0, "direction": push, "past the arguments": scale}[place].requires_grad_()

    def along(strategy):
        def final(y):
            return kn.propagate(kn.Verlet(), field, y, controls, H, strategy, checked=False)

        return torch.func.vmap(lambda y, v: torch.func.jvp(final, (y,), (v,))[1])(y0, push)

    (slope,) = torch.autograd.grad(along(kn.store_all).square().sum(), leaf)
    assert bool(slope.any())
    with pytest.raises(ValueError, match=WAY_OUT):
        along(kn.checkpointed)
