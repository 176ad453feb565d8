"""Laws of the passes: what they compute is the formula, and what they pull is its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from problems import randn
from torch import Tensor

from keelnet.dynamics.activations import KNOWN, Activation
from keelnet.dynamics.norms import ChannelNorm, InstanceNorm, Norm
from keelnet.propagation.engines import passes as passes_module
from keelnet.propagation.engines.passes import Passes, as_rows

FACTOR = 0.37
NORMS = {"": None, "channel": ChannelNorm(), "instance": InstanceNorm()}
SIZES = [(rows, channels) for rows in (1, 5, 300) for channels in (1, 3, 16, 17)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-4}
DOUBLE, SINGLE = torch.float64, torch.float32

# Each kernel costs half a second where no cache has it: `test_lanes` bends by every activation.
COMPILED = [(name, "", DOUBLE) for name in ("tanh", "elu", "silu")]
COMPILED += [("tanh", norm, SINGLE) for norm in NORMS]
COMPILED += [("silu", "channel", DOUBLE), ("tanh", "instance", DOUBLE)]
PLAIN = [(name, norm, DOUBLE) for name in KNOWN for norm in NORMS]
PLAIN += [(name, "", SINGLE) for name in KNOWN] + [("tanh", norm, SINGLE) for norm in NORMS if norm]
ROWS = [("compiled", *case) for case in COMPILED] + [("plain", *case) for case in PLAIN]
EVERY = pytest.mark.parametrize(
    ("made", "name", "norm", "dtype"),
    ROWS,
    ids=[" ".join(str(each) for each in row if each) for row in ROWS],
)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Fresh memory holds not-a-number: what a kernel does not write itself, it may not use."""
    fresh = torch.empty

    def empty(*shape, **settings):
        found = fresh(*shape, **settings)
        return found.fill_(255) if found.dtype == torch.uint8 else found

    monkeypatch.setattr(torch, "empty", empty)


@pytest.fixture
def passes(made, name, norm, dtype, monkeypatch) -> Passes:
    if made == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(passes_module, "has_numba", lambda: False)
    found = Passes(KNOWN[name], NORMS[norm], dtype)
    assert found.native == (made == "compiled")
    return found


@dataclass
class Case:
    """Arguments of the passes, and by autograd in float64 what these should find."""

    activation: Activation
    norm: Norm | None
    rows: int
    channels: int
    bias_axes: int | None
    dtype: torch.dtype

    def __post_init__(self) -> None:
        shape = (self.rows, self.channels)
        self.samples = 5 if self.rows % 5 == 0 else 1
        self.pre = (2 * randn(*shape, seed=1) + 0.3).to(self.dtype)
        self.target, self.costate = (randn(*shape, seed=seed, dtype=self.dtype) for seed in (2, 3))
        bias = randn(self.channels, seed=4, dtype=self.dtype)
        self.bias = {None: None, 0: bias[0], 1: bias}[self.bias_axes]
        scaled = self.norm is not None and self.bias_axes == 1
        self.scale = randn(self.channels, seed=5, dtype=self.dtype) if scaled else None
        self._solve()

    def _solve(self) -> None:
        given = (self.pre, self.bias, self.scale)
        x, bias, scale = (
            None if one is None else one.double().clone().requires_grad_() for one in given
        )
        assert x is not None
        normed = x
        if self.norm is not None:
            blocks = x.view(self.samples, -1, self.channels)
            normed = self.norm.apply(blocks, -1).view(x.shape)
        scaled = normed if scale is None else normed * scale
        a = scaled + (0.0 if bias is None else bias)
        value = self.activation(a)
        cost = (FACTOR * value * self.costate.double()).sum()
        leaves = [one for one in (a, x, bias, scale) if one is not None]
        grads = iter(torch.autograd.grad(cost, leaves))
        self.a, self.value, self.normed = a.detach(), value.detach(), normed.detach()
        self.pulled, self.by_pre = next(grads), next(grads)
        self.by_bias = None if bias is None else next(grads)
        self.by_scale = None if scale is None else next(grads)
        self.moved = self.target.double() + FACTOR * self.value

    def check(self, found: Tensor, wanted: Tensor, size: float = 1.0) -> None:
        """``size`` is that of the terms, where they may cancel."""
        assert found.dtype == self.dtype and found.shape == wanted.shape
        bound = TOLERANCE[self.dtype] * max(size, float(wanted.abs().max()))
        assert float((found.double() - wanted).abs().max()) <= bound

    def kept(self, passes: Passes) -> Tensor:
        kept = torch.full_like(self.pre, torch.nan)
        passes.bend(self.pre, self.bias, self.scale, kept=kept, samples=self.samples)
        return kept


def cases(name: str, norm: str, dtype: torch.dtype):
    for rows, channels in SIZES:
        for bias_axes in (None, 0, 1):
            yield Case(KNOWN[name], NORMS[norm], rows, channels, bias_axes, dtype)


@EVERY
def test_passes_are_the_formula_and_its_gradient(passes, made, name, norm, dtype):
    for case in cases(name, norm, dtype):
        check_bend(passes, case)
        check_pull(passes, case)
        check_shift(passes, case)
        if case.norm is None:
            check_unbend(passes, case)
        else:
            check_unnorm(passes, case)


def check_bend(passes: Passes, case: Case) -> None:
    arguments = (case.pre, case.bias, case.scale)
    dest = torch.full_like(case.pre, torch.nan)
    passes.bend(*arguments, dest=dest, samples=case.samples)
    case.check(dest, case.value)
    passes.bend(*arguments, case.target, dest, factor=FACTOR, samples=case.samples)
    case.check(dest, case.moved)
    target, kept = case.target.clone(), case.pre.clone()
    passes.bend(kept, case.bias, case.scale, target, target, kept, FACTOR, case.samples)
    case.check(target, case.moved)
    case.check(kept, case.value if passes.keeps_value else case.a)
    case.check(case.kept(passes), case.value if passes.keeps_value else case.a)


def check_pull(passes: Passes, case: Case) -> None:
    sums = None if case.bias is None else torch.ones_like(case.bias)
    dest, kept = case.costate.clone(), case.kept(passes)
    passes.pull(kept, dest, dest, sums, FACTOR)
    case.check(dest, case.pulled)
    check_sums(case, sums, case.by_bias, case.pulled)
    passes.pull(kept, case.costate, kept, None, FACTOR)
    case.check(kept, case.pulled)


def check_unbend(passes: Passes, case: Case) -> None:
    sums = None if case.bias is None else torch.ones_like(case.bias)
    target, dest = case.moved.to(case.dtype), case.pre.clone()
    passes.unbend(dest, case.bias, target, case.costate, dest, sums, FACTOR)
    case.check(target, case.target.double())
    case.check(dest, case.pulled)
    check_sums(case, sums, case.by_bias, case.pulled)


def check_unnorm(passes: Passes, case: Case) -> None:
    costate = case.pulled.to(case.dtype)
    size = float(case.pulled.abs().max())
    for at in range(3):
        sums = None if case.scale is None else torch.ones_like(case.scale)
        pre, onto = case.pre.clone(), costate.clone()
        dest = (torch.full_like(pre, torch.nan), pre, onto)[at]
        passes.unnorm(pre, onto, case.scale, dest, sums, case.samples)
        case.check(dest, case.by_pre, size)
        check_sums(case, sums, case.by_scale, case.pulled * case.normed)


def check_sums(case: Case, sums: Tensor | None, wanted: Tensor | None, terms: Tensor) -> None:
    if sums is not None and wanted is not None:
        case.check(sums, wanted + 1, float(terms.abs().sum()) + 1)


def check_shift(passes: Passes, case: Case) -> None:
    target = case.target.clone()
    passes.shift(target, case.costate, FACTOR)
    case.check(target, case.target.double() + FACTOR * case.costate.double())


@pytest.mark.parametrize("norm", NORMS)
def test_threads_change_nothing_but_the_order_of_sums(norm):
    pytest.importorskip("numba")
    case = Case(KNOWN["tanh"], NORMS[norm], 5000, 17, 1, DOUBLE)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        passes = Passes(case.activation, case.norm, DOUBLE)
        check_bend(passes, case)
        check_pull(passes, case)
        (check_unbend if case.norm is None else check_unnorm)(passes, case)
    finally:
        torch.set_num_threads(before)


def test_nothing_is_bent_where_there_is_nothing():
    for rows, channels in ((0, 3), (3, 0)):
        pre = torch.zeros(rows, channels)
        Passes(KNOWN["tanh"]).bend(pre, dest=pre)


class Sharper(Activation):
    """tanh by name and function, and yet another."""

    def __call__(self, x):
        return super().__call__(2 * x)


@pytest.mark.parametrize("activation", [Activation("tanh", torch.sin), Sharper("tanh", torch.tanh)])
def test_an_activation_that_only_bears_a_known_name_is_its_own(activation):
    passes = Passes(activation, dtype=DOUBLE)
    assert not passes.native and not passes.keeps_value
    pre = randn(4, 3).requires_grad_()
    found, kept, pulled = (torch.empty(4, 3, dtype=DOUBLE) for _ in range(3))
    passes.bend(pre, dest=found, kept=kept)
    passes.pull(kept, torch.ones_like(pulled), pulled)
    torch.testing.assert_close(found, activation(pre).detach())
    torch.testing.assert_close(pulled, torch.autograd.grad(activation(pre).sum(), pre)[0])


def test_what_does_not_fit_is_refused():
    passes, normed = Passes(KNOWN["tanh"]), Passes(KNOWN["tanh"], ChannelNorm())
    pre = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="no norm"):
        passes.unnorm(pre, pre, None, pre)
    with pytest.raises(ValueError, match="with a norm"):
        normed.unbend(pre, None, pre, pre, pre)
    if passes.native:
        with pytest.raises(ValueError, match=r"expected 12 numbers of torch\.float32"):
            passes.bend(pre, dest=torch.zeros(3, 3))
        with pytest.raises(ValueError, match="contiguous"):
            passes.bend(pre, dest=torch.zeros(3, 4).T)
        with pytest.raises(ValueError, match="equal blocks"):
            Passes(KNOWN["tanh"], InstanceNorm()).bend(pre, dest=pre, samples=3)


def test_rows_are_seen_without_a_copy():
    state = torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    rows = as_rows(state, 1)
    assert rows.shape == (40, 3) and rows.data_ptr() == state.data_ptr()
    with pytest.raises(ValueError, match="last in memory"):
        as_rows(torch.zeros(2, 3, 4, 5), 1)
