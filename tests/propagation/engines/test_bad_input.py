"""Laws of unusual input: however tensors lie in memory and whoever looks on, the plain loop's result or a clear error."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems import randn
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import keelnet as kn

H, DEPTH = 0.1, 4
# The engine, the method, the field and y0's shape. Blocks are the compiled loop of the dense engine.
SETTINGS = {
    "narrow": ("narrow", kn.Euler(), kn.SingleField(kn.DenseKernel(6)), (70, 6)),
    "narrow pair": ("narrow", kn.Verlet(), kn.HamiltonianField(kn.DenseKernel(3, 5)), (20, 8)),
    "blocks": ("dense", kn.Euler(), kn.SingleField(kn.DenseKernel(26)), (70, 26)),
    "products": ("dense", kn.Verlet(), kn.HamiltonianField(kn.DenseKernel(4, 5)), (9, 9)),
    "conv": ("conv", kn.Euler(), kn.SingleField(kn.ConvKernel(3, 2, 3)), (2, 3, 5, 4)),
    "staged": ("staged", kn.RK4(), kn.SingleField(kn.DenseKernel(6)), (70, 6)),
    "staged pair": ("staged", kn.Euler(), kn.HamiltonianField(kn.DenseKernel(3, 5)), (20, 8)),
}
EVERY = pytest.mark.parametrize("name", list(SETTINGS))
STRATEGIES = [kn.store_all, kn.checkpointed, kn.reversible]
Controls = dict[str, Tensor]


@pytest.fixture(autouse=True)
def compiler():
    pytest.importorskip("numba")


class Case:
    """One setting under one engine, with leaves of its own."""

    def __init__(self, name: str, engine: str | None = None) -> None:
        known, self.method, self.field, self.shape = SETTINGS[name]
        self.engine = engine or known

    def y0(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return randn(*self.shape, dtype=dtype)

    def controls(self, dtype: torch.dtype = torch.float64) -> Controls:
        slots = self.field.theta_shapes().items()
        return {
            name: randn(DEPTH, *slot.shape, seed=seed, dtype=dtype)
            / (1 if slot.kernel is None else slot.kernel.fan_in) ** 0.5
            for seed, (name, slot) in enumerate(slots, 1)
        }

    def leaves(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Controls]:
        controls = {name: x.requires_grad_() for name, x in self.controls(dtype).items()}
        return self.y0(dtype).requires_grad_(), controls

    def run(self, y0: Tensor, controls: Controls, **settings: object) -> Tensor:
        with kn.engine(self.engine):
            return kn.propagate(self.method, self.field, y0, controls, H, **settings)

    def strategies(self) -> list:
        reversible = self.method.reversal_obstacle(self.method.adapted(self.field)) is None
        return STRATEGIES if reversible else STRATEGIES[:2]


def pulled(value: Tensor, *inputs: Tensor) -> list[Tensor]:
    """The value, and the gradient of a fixed functional."""
    cost = (value * randn(*value.shape, seed=9, dtype=value.dtype)).sum()
    return [value, *torch.autograd.grad(cost, inputs, materialize_grads=True, allow_unused=True)]


def alike(name: str, law: Callable[..., list[Tensor]], tolerance: float = 1e-12) -> None:
    """What the law gives under the engine is what it gives under the reference, by every strategy."""
    for strategy in Case(name).strategies():
        found, wanted = (
            law(case, strategy=strategy) for case in (Case(name), Case(name, "reference"))
        )
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# Memory


def _backwards(x: Tensor) -> Tensor:
    """The same numbers, the first axis innermost in memory."""
    axes = tuple(range(x.ndim - 1, -1, -1))
    return x.detach().permute(axes).contiguous().permute(axes)


LAYOUTS = {
    "last axis strided": lambda x: torch.stack([x, x + 1], -1)[..., 0],
    "first axis strided": lambda x: torch.stack([x, x + 1], 1)[:, 0],
    "one sample": lambda x: x[:1].expand_as(x),
    "one number": lambda x: x.flatten()[0].expand_as(x),
    "one zero": lambda x: (0 * x.flatten()[0]).expand_as(x),
    "first axis last": _backwards,
    "between bytes": lambda x: torch.frombuffer(
        bytearray(3) + bytearray(x.detach().numpy().tobytes()), dtype=x.dtype, offset=3
    ).view_as(x),
}
WAYS = pytest.mark.parametrize("layout", list(LAYOUTS))


@WAYS
@EVERY
def test_features_may_lie_anyhow_in_memory(name, layout):
    def law(case, **settings):
        y0, controls = case.leaves()
        laid = LAYOUTS[layout](y0)
        laid = laid if laid.requires_grad else laid.requires_grad_()
        return pulled(case.run(laid, controls, **settings), laid, *controls.values())

    alike(name, law)


@WAYS
@EVERY
def test_weights_may_lie_anyhow_in_memory(name, layout):
    def law(case, **settings):
        y0, controls = case.leaves()
        laid = LAYOUTS[layout](controls["weight"])
        laid = laid if laid.requires_grad else laid.requires_grad_()
        value = case.run(y0, {**controls, "weight": laid}, **settings)
        return pulled(value, y0, laid, controls["bias"])

    alike(name, law)


STRIDED = ("last axis strided", "first axis last")


@pytest.mark.parametrize("layout", [each for each in LAYOUTS if each not in STRIDED])
@EVERY
def test_biases_may_lie_anyhow_in_memory(name, layout):
    alike(name, lambda case, **settings: biased(case, layout, **settings))


@pytest.mark.parametrize("layout", STRIDED)
@EVERY
def test_biases_whose_channels_lie_apart(name, layout):
    alike(name, lambda case, **settings: biased(case, layout, **settings))


def biased(case: Case, layout: str, **settings: object) -> list[Tensor]:
    y0, controls = case.leaves()
    laid = LAYOUTS[layout](controls["bias"])
    laid = laid if laid.requires_grad else laid.requires_grad_()
    value = case.run(y0, {**controls, "bias": laid}, **settings)
    return pulled(value, y0, laid, controls["weight"])


@WAYS
@EVERY
def test_gradients_of_the_result_may_lie_anyhow_in_memory(name, layout):
    def law(case, **settings):
        y0, controls = case.leaves()
        value = case.run(y0, controls, **settings)
        pull = LAYOUTS[layout](randn(*value.shape, seed=9))
        return list(torch.autograd.grad(value, [y0, *controls.values()], pull))

    alike(name, law)


def imaginary(x: Tensor) -> Tensor:
    """The same numbers as a view whose memory holds their negatives."""
    view = torch.complex(x, -x).conj().imag
    assert view.is_neg() and torch.equal(view, x)
    return view


@EVERY
def test_features_may_be_the_imaginary_part_of_a_conjugate(name):
    alike(name, lambda case, **given: [case.run(imaginary(case.y0()), case.controls(), **given)])


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "conv"])
def test_controls_may_be_the_imaginary_part_of_a_conjugate(name):
    def law(case, **settings):
        controls = {each: imaginary(value) for each, value in case.controls().items()}
        return [case.run(case.y0(), controls, **settings)]

    alike(name, law)


@EVERY
def test_features_may_share_memory_with_the_weight(name):
    def law(case, **settings):
        _, controls = case.leaves()
        size = torch.Size(case.shape).numel()
        weight = controls["weight"]
        y0 = weight.flatten().repeat(1 + size // weight.numel())[:size].view(case.shape)
        if size <= weight.numel():
            y0 = weight.flatten()[:size].view(case.shape)
        return pulled(case.run(y0, controls, **settings), *controls.values())

    alike(name, law)


# Changes on the way


@pytest.mark.parametrize("changed", ["y0", "weight"])
@EVERY
def test_a_change_in_place_before_the_backward_pass_is_an_error(name, changed):
    case = Case(name)
    y0, controls = case.leaves()
    inputs = {"y0": 1 * y0, **{each: 1 * value for each, value in controls.items()}}
    value = case.run(inputs["y0"], {each: inputs[each] for each in controls})
    with torch.no_grad():
        inputs[changed].mul_(2)
    with pytest.raises(RuntimeError, match="inplace|in-place"):
        value.sum().backward()


@EVERY
def test_the_result_may_be_changed_in_place(name):
    def law(case, **settings):
        y0, controls = case.leaves()
        value = nn.ReLU(inplace=True)(case.run(y0, controls, **settings))
        return pulled(value, y0, *controls.values())

    alike(name, law)


@EVERY
def test_the_number_of_threads_may_change_on_the_way(name):
    def law(case, **settings):
        y0, controls = case.leaves()
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(2)
            value = case.run(y0, controls, **settings)
            torch.set_num_threads(5)
            return pulled(value, y0, *controls.values())
        finally:
            torch.set_num_threads(before)

    alike(name, law)


# Those who look on


@EVERY
def test_gradients_may_be_taken_in_other_threads(name):
    def law(case, **settings):
        inputs = [case.leaves() for _ in range(3)]
        values = [case.run(*each, **settings) for each in inputs]
        found = {}

        def work(at: int) -> None:
            y0, controls = inputs[at]
            found[at] = pulled(values[at], y0, *controls.values())

        threads = [threading.Thread(target=work, args=(at,)) for at in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [each for at in range(3) for each in found[at]]

    alike(name, law)


@EVERY
def test_hooks_see_the_same_gradients_and_may_change_them(name):
    def law(case, **settings):
        y0, controls = case.leaves()
        seen = []
        for each in (y0, *controls.values()):
            each.register_hook(lambda g: (seen.append(g.sum()), 2 * g)[1])
        value = case.run(y0, controls, **settings)
        value.register_hook(lambda g: 3 * g)
        return [*pulled(value, y0, *controls.values()), torch.stack(seen).sort().values]

    alike(name, law)


def _stored(x: Tensor) -> np.ndarray:
    return x.numpy(force=True).copy()


@EVERY
def test_what_is_saved_may_be_kept_elsewhere(name):
    def law(case, **settings):
        y0, controls = case.leaves()
        with torch.autograd.graph.saved_tensors_hooks(_stored, torch.from_numpy):
            value = case.run(y0, controls, **settings)
        return pulled(value, y0, *controls.values())

    alike(name, law)


@EVERY
def test_what_is_saved_may_come_back_with_other_strides(name):
    def law(case, **settings):
        y0, controls = case.leaves()
        controls.pop("bias")
        with torch.autograd.graph.saved_tensors_hooks(_stored, lambda x: _backwards(torch.from_numpy(x))):  # fmt: skip
            value = case.run(y0, controls, **settings)
        return pulled(value, y0, *controls.values())

    alike(name, law)


@pytest.mark.parametrize("reentrant", [False, True])
@EVERY
def test_a_checkpoint_of_torch_may_stand_around_it(name, reentrant):
    def law(case, **settings):
        y0, controls = case.leaves()
        names = list(controls)

        def run(y0: Tensor, *values: Tensor) -> Tensor:
            return case.run(y0, dict(zip(names, values, strict=True)), **settings)

        value = checkpoint(run, y0, *controls.values(), use_reentrant=reentrant)
        (value * randn(*value.shape, seed=9)).sum().backward()
        return [value, y0.grad, *(each.grad for each in controls.values())]

    alike(name, law)


@EVERY
def test_anomalies_may_be_looked_for(name):
    def law(case, **settings):
        y0, controls = case.leaves()
        with torch.autograd.detect_anomaly(check_nan=True):
            return pulled(case.run(y0, controls, **settings), y0, *controls.values())

    with pytest.warns(UserWarning, match="Anomaly"):
        alike(name, law)


@EVERY
def test_without_a_graph_there_is_none(name):
    case = Case(name)
    y0, controls = case.leaves()
    wanted = case.run(y0, controls).detach()
    with torch.no_grad():
        value = case.run(y0, controls)
    assert not value.requires_grad
    # Not bit for bit: torch's products may differ in the last one with where their arrays lie.
    close = functools.partial(torch.testing.assert_close, expected=wanted, rtol=1e-13, atol=1e-14)
    close(value)
    with torch.inference_mode():
        value = case.run(case.y0(), case.controls())
        assert value.is_inference()
        close(value)
    close(case.run(value * 0 + case.y0(), case.controls()))


@EVERY
def test_transforms_of_functions_give_the_same(name):
    case, plain = Case(name, "auto"), Case(name, "reference")
    y0, controls = case.y0(), case.controls()

    def results(run: Callable[..., Tensor]) -> list[Tensor]:
        def cost(y0: Tensor) -> Tensor:
            return run(y0, controls).square().sum()

        each = torch.func.vmap(lambda one: run(one[None], controls, checked=False)[0])(y0)
        along = torch.func.jvp(lambda y: run(y, controls), (y0,), (y0.cos(),))[1]
        return [each, along, torch.func.grad(cost)(y0)]

    for found, wanted in zip(results(case.run), results(plain.run), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@EVERY
def test_many_gradients_may_be_asked_for_at_once(name):
    case, found = Case(name), []
    for each in (case, Case(name, "reference")):
        y0, controls = each.leaves()
        value = each.run(y0, controls)
        pulls = randn(3, *value.shape, seed=9)
        inputs = [y0, *controls.values()]
        found.append(torch.autograd.grad(value, inputs, pulls, is_grads_batched=True))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@EVERY
def test_the_backward_pass_may_be_derived_forward(name):
    found = []
    for case in (Case(name), Case(name, "reference")):
        y0, controls = case.leaves()
        value = case.run(y0, controls)
        with torch.autograd.forward_ad.dual_level():
            pull = torch.autograd.forward_ad.make_dual(randn(*value.shape), randn(*value.shape))
            gradient = torch.autograd.grad(value, controls["weight"], pull)[0]
            found.append(torch.autograd.forward_ad.unpack_dual(gradient).tangent)
    assert found[0] is not None
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@EVERY
def test_the_backward_pass_alone_under_autocast_rounds_no_sums(name):
    """The reference rounds its products there, as torch's own; what an engine sums itself stays whole."""
    case, found = Case(name), []
    for inside in (False, True):
        y0, controls = case.leaves(torch.float32)
        value = case.run(y0, controls)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            found.append(pulled(value, y0, *controls.values()))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


# Numbers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@EVERY
def test_short_numbers_go_to_the_reference(name, dtype):
    case, plain = Case(name, "auto"), Case(name, "reference")
    y0, controls = case.y0(dtype), case.controls(dtype)
    assert torch.equal(case.run(y0, controls), plain.run(y0, controls))
    with pytest.raises(ValueError, match="is neither float32 nor float64"):
        Case(name).run(y0, controls)


@EVERY
def test_the_default_type_does_not_matter(name):
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)

        def law(case, **settings):
            y0, controls = case.leaves()
            return pulled(case.run(y0, controls, **settings), y0, *controls.values())

        alike(name, law)
    finally:
        torch.set_default_dtype(before)


@EVERY
def test_the_default_device_does_not_matter(name):
    case = Case(name)
    y0, controls = case.y0(), case.controls()
    wanted = case.run(y0, controls)
    with torch.device("meta"):
        assert torch.equal(case.run(y0, controls), wanted)


@EVERY
def test_shapes_alone_can_be_propagated(name):
    case = Case(name, "auto")
    controls = {each: value.to("meta") for each, value in case.controls().items()}
    assert case.run(case.y0().to("meta"), controls, checked=False).shape == case.shape


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["y0", "weight", "bias"])
@EVERY
def test_numbers_that_are_not_finite_are_refused(name, where, bad):
    case = Case(name)
    inputs = {"y0": case.y0(), **case.controls()}
    inputs[where].view(-1)[-1] = bad
    y0 = inputs.pop("y0")
    with pytest.raises(ValueError, match=f"{where} must be finite"):
        case.run(y0, inputs)


@pytest.mark.parametrize("at", [0, -1])
@EVERY
def test_a_sample_that_is_not_a_number_spoils_no_other(name, at):
    """Tiles repeat their last sample where there are no more."""
    case = Case(name)
    y0, controls = case.leaves()
    wanted = case.run(y0, controls)
    gradient = torch.autograd.grad(wanted.sum(), y0)[0]
    others = torch.ones(len(y0), dtype=torch.bool)
    others[at] = False
    spoilt = y0.detach().clone()
    spoilt[at] = torch.nan
    spoilt.requires_grad_()
    for strategy in case.strategies():
        value = case.run(spoilt, controls, checked=False, strategy=strategy)
        assert value[at].isnan().all()
        torch.testing.assert_close(value[others], wanted[others], rtol=1e-12, atol=1e-12)
        found = torch.autograd.grad(value.sum(), spoilt)[0]
        torch.testing.assert_close(found[others], gradient[others], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1e30, 1e-30, 1e-310])
@EVERY
def test_features_may_be_huge_or_tiny(name, size):
    """Measured by their size. Tiny ones have no bias beside them, in which they would vanish."""

    def law(case, **settings):
        y0, controls = case.y0() * size, case.leaves()[1]
        if size < 1:
            del controls["bias"]
        found = pulled(case.run(y0, controls, **settings), *controls.values())
        assert all(bool(x.any()) for x in found[: 2 if size < 1 else 1])
        return [x / size for x in found]

    alike(name, law, 1e-12 if size > 1e-300 else 1e-10)  # below 2e-308 there are fewer digits


@pytest.mark.parametrize("name", ["narrow", "blocks", "staged"])
def test_a_saturated_unit_has_no_slope(name):
    case = Case(name)
    controls = {each: torch.ones_like(x) for each, x in case.controls(torch.float32).items()}
    weight = controls["weight"].requires_grad_()
    value = case.run(torch.full(case.shape, 1e4), controls)
    assert not torch.autograd.grad(value.sum(), weight)[0].any()


@pytest.mark.parametrize("damping", [0.0, 0.4, -0.3])
@pytest.mark.parametrize("name", ["narrow", "blocks", "conv", "staged"])
def test_a_damping_that_is_learned_may_take_any_value(name, damping):
    found = []
    for engine in (None, "reference"):
        case = Case(name, engine)
        gamma = torch.tensor(damping, dtype=torch.float64, requires_grad=True)
        case.field = kn.AntisymmetricField(SETTINGS[name][2].kernel, damping=gamma)
        y0, controls = case.leaves()
        found.append(pulled(case.run(y0, controls, checked=False), gamma, y0, *controls.values()))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


# Sizes


@pytest.mark.parametrize("depth", [1, 1000])
@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "conv"])
def test_depth_may_be_one_or_a_thousand(name, depth):
    def law(case, **settings):
        y0, controls = case.leaves()
        many = {each: x[:1].expand(depth, *x.shape[1:]) / 10 for each, x in controls.items()}
        return pulled(case.run(y0, many, **settings), y0, *controls.values())

    alike(name, law, 1e-10)


@EVERY
def test_without_samples_there_is_nothing(name):
    case = Case(name, "auto")
    y0, controls = case.leaves()
    none = y0[:0]
    value, gradient, *_ = pulled(case.run(none, controls), none, *controls.values())
    assert value.shape == none.shape == gradient.shape
    with pytest.raises(ValueError, match="there are no samples"):
        Case(name).run(none, controls)
