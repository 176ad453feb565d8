"""Laws of the compiled blocks: whatever does not fill a panel, a tile or a chunk, the result is the plain loop's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import randn

import keelnet as kn
from keelnet.propagation.engines import block_loop

FIELDS = {
    "single": lambda n, k, f: (kn.Euler(), kn.SingleField(kn.DenseKernel(n), f)),
    "antisymmetric": lambda n, k, f: (
        kn.Euler(),
        kn.AntisymmetricField(kn.DenseKernel(n), f, damping=0.3),
    ),
    "hamiltonian": lambda n, k, f: (kn.Verlet(), kn.HamiltonianField(kn.DenseKernel(n, k), f)),
    "second order": lambda n, k, f: (kn.Leapfrog(), kn.SingleField(kn.DenseKernel(n), f)),
    "symmetric": lambda n, k, f: (kn.Euler(), kn.SymmetricField(kn.DenseKernel(n, k), "tanh")),
    "double": lambda n, k, f: (
        kn.Verlet(),
        kn.DoubleHamiltonianField(kn.DenseKernel(n, k), kn.DenseKernel(n, k + 1), "tanh"),
    ),
}


@pytest.fixture
def small(monkeypatch):
    """Blocks also where they do not pay."""
    monkeypatch.setattr(block_loop, "FEWEST", 1)
    monkeypatch.setattr(block_loop, "WEIGHTS_A_SAMPLE", 1 << 40)
    return monkeypatch


def result(engine, method, field, batch, width, depth, strategy, dtype=torch.float64):
    """y(T) and the gradient of a fixed functional, everything in one list."""
    y0 = randn(batch, width, seed=1, dtype=dtype).requires_grad_()
    controls = {
        name: (0.3 * randn(depth, *slot.shape, seed=2 + at, dtype=dtype)).requires_grad_()
        for at, (name, slot) in enumerate(field.theta_shapes().items())
    }
    with kn.engine(engine):
        value = kn.propagate(method, field, y0, controls, 0.1, strategy, checked=False)
        cost = (value * randn(*value.shape, seed=9, dtype=dtype)).sum()
        inputs = [y0, *controls.values()]
        grads = torch.autograd.grad(cost, inputs, allow_unused=True, materialize_grads=True)
    return [value, *grads]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(FIELDS)),
    activation=st.sampled_from(["tanh", "relu", "silu", "elu"]),
    batch=st.integers(1, 150),
    width=st.integers(1, 70),
    inner=st.integers(1, 70),
    depth=st.integers(1, 5),
    strategy=st.sampled_from([kn.store_all, kn.checkpointed, kn.reversible]),
    chunk=st.sampled_from([(1, 1), (1 << 16, 3), (1 << 22, 32)]),
)
def test_any_size_gives_the_reference(
    kind, activation, batch, width, inner, depth, strategy, chunk
):
    method, field = FIELDS[kind](width, inner, activation)
    if strategy is kn.reversible and kind in ("single", "antisymmetric", "symmetric"):
        strategy = kn.checkpointed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_loop, "FEWEST", 1)
        patch.setattr(block_loop, "WEIGHTS_A_SAMPLE", 1 << 40)
        patch.setattr(block_loop, "CHUNK_BYTES", chunk[0])
        patch.setattr(block_loop, "PAYS", chunk[1])
        patch.setattr(block_loop, "GROUP_BYTES", chunk[0])
        settings = method, field, batch, width, depth, strategy
        for one, other in zip(result("dense", *settings), result("reference", *settings), strict=True):  # fmt: skip
            assert float((one - other).detach().abs().max()) <= 1e-11 * max(
                1.0, float(other.detach().abs().max())
            )


def test_the_number_of_threads_may_change_between_forward_and_backward():
    """What the forward pass records does not depend on who does the work."""
    y0, weight = randn(300, 40, seed=1), randn(6, 40, 40, seed=2) / 6
    found = []
    threads = torch.get_num_threads()
    for before, after in ((2, 1), (1, 2), (2, 2)):
        y, w = y0.clone().requires_grad_(), weight.clone().requires_grad_()
        try:
            torch.set_num_threads(before)
            with kn.engine("dense"):
                value = kn.propagate(kn.Euler(), kn.SingleField(kn.DenseKernel(40)), y, {"weight": w}, 0.1)  # fmt: skip
            torch.set_num_threads(after)
            found.append(torch.autograd.grad(value.square().sum(), [y, w]))
        finally:
            torch.set_num_threads(threads)
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], rtol=1e-12, atol=1e-12)


def test_results_are_the_same_every_time():
    """Sums are taken in one order, so that runs can be repeated to the last bit."""
    method, field = FIELDS["hamiltonian"](48, 33, "tanh")
    settings = method, field, 500, 48, 7, kn.reversible, torch.float32
    first = result("dense", *settings)
    for one, other in zip(first, result("dense", *settings), strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def launched(monkeypatch):
    """The threads of each launch, where torch has two."""
    counts, launch = [], block_loop.launch_all

    def counted(kernel, block, place, threads):
        counts.append(threads)
        launch(kernel, block, place, threads)

    monkeypatch.setattr(block_loop, "launch_all", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield counts
    torch.set_num_threads(before)


def test_weights_too_large_to_be_summed_apart_take_one_thread(monkeypatch, launched):
    settings = *FIELDS["single"](40, 40, "tanh"), 200, 40, 4, kn.store_all
    wanted = result("dense", *settings)
    monkeypatch.setattr(block_loop, "LARGEST_SUMS", 1)
    for one, other in zip(result("dense", *settings), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert launched == [2, 2, 2, 1]


def test_where_no_weight_is_summed_its_size_takes_no_thread_away(monkeypatch, launched):
    monkeypatch.setattr(block_loop, "LARGEST_SUMS", 1)
    y0, weight = randn(200, 40, seed=1).requires_grad_(), randn(4, 40, 40, seed=2) / 6
    bias = randn(4, 40, seed=3).requires_grad_()
    with kn.engine("dense"):
        value = kn.propagate(*FIELDS["single"](40, 40, "tanh"), y0, {"weight": weight, "bias": bias}, 0.1)  # fmt: skip
    torch.autograd.grad(value.sum(), [y0, bias])
    assert launched == [2, 2]


@pytest.mark.parametrize(
    ("field", "batch", "reason"),
    [
        (kn.SingleField(kn.DenseKernel(300)), 63, "fewer than 64 samples"),
        (kn.SingleField(kn.DenseKernel(600)), 4096, None),
        (kn.SingleField(kn.DenseKernel(300)), 100, "packing"),
        (kn.SingleField(kn.DenseKernel(40), norm=kn.ChannelNorm()), 100, "without a norm"),
        (kn.SymmetricField(kn.DenseKernel(40), "silu"), 100, "slope of silu"),
    ],
    ids=lambda each: str(each)[:30],
)
def test_the_reason_says_which_products_and_why(field, batch, reason, monkeypatch):
    monkeypatch.setattr(block_loop, "_slow_products", lambda: reason is None)
    width = field.kernel.inputs
    controls = {name: randn(2, *slot.shape) / width for name, slot in field.theta_shapes().items()}
    choice = kn.engine_of(kn.Euler(), field, randn(batch, width), controls, 0.1)
    assert choice.name == "dense"
    assert (reason in choice.reason) if reason else choice.reason.endswith(", compiled")


@pytest.mark.parametrize("strategy", [kn.store_all, kn.reversible])
def test_a_gradient_holds_itself_alone_and_not_the_sums_of_every_thread(strategy):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        field = kn.HamiltonianField(kn.DenseKernel(64), "tanh")
        control = kn.Control.random(field, 3)
        y0 = torch.randn(512, 64)
        assert kn.engine_of(kn.Verlet(), field, y0, control.at_layers(3), 0.1).name == "dense"
        y = kn.propagate(kn.Verlet(), field, y0, control.values(), 0.1, strategy)
        y.square().sum().backward()
    finally:
        torch.set_num_threads(before)
    for value in control.values().values():
        assert value.grad.untyped_storage().nbytes() == value.grad.numel() * 4
