"""What is advised holds, and what does not hold is not advised: both are tried."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import keelnet as kn
from keelnet.analysis import LayerStability, Spectrum
from keelnet.analysis.advice import advice_for


class Linear(nn.Module):
    """x + x A."""

    def __init__(self, matrix):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(matrix, dtype=torch.float64))

    def forward(self, x):
        return x + x @ self.weight


MATRICES = {
    "planted": [[0.5, 0.0], [0.0, 0.5]],
    "large": [[3.0, 0.0], [0.0, 1.0]],
    "stiff": [[-3.0, 0.0], [0.0, -1.0]],
    "turning": [[0.0, -1.0], [1.0, 0.0]],
    "spiral": [[0.5, -2.0], [2.0, 0.5]],
    "falling spiral": [[-0.5, -2.0], [2.0, -0.5]],
    "saddle": [[1.0, 0.0], [0.0, -1.0]],
}
METHODS = {"Verlet": kn.Verlet(), "Leapfrog": kn.Leapfrog(), "Midpoint": kn.Midpoint()}
X = torch.ones(1, 2, dtype=torch.float64)
LAYERS = 400


class Narrow(nn.Module):
    """y + y Q C Qᵀ: C is small, so most eigenvalues of the branch are 0."""

    def __init__(self, core, dtype):
        super().__init__()
        columns = torch.linalg.qr(torch.randn(16, len(core), dtype=torch.float64))[0]
        self.down, self.core = (nn.Parameter(each.to(dtype)) for each in (columns, core))

    def forward(self, y):
        return y + y @ self.down @ self.core @ self.down.mT


class Turning(nn.Module):
    """y + tanh(y A), A antisymmetric but for what grows."""

    def __init__(self, rate, dtype):
        super().__init__()
        matrix = torch.randn(6, 6, dtype=torch.float64)
        self.weight = nn.Parameter((matrix - matrix.mT + rate * torch.eye(6)).to(dtype))

    def forward(self, y):
        return y + torch.tanh(y @ self.weight)


def advised(matrix):
    block = Linear(matrix)
    (row,) = kn.analysis.diagnose(nn.Sequential(block), X, spectra=True).blocks
    return block, row.advice


def grown(block, method, h):
    held = kn.stabilised([block] * LAYERS, method, step_size=h, channels=2)
    return kn.analysis.stability(held, X).blocks[0].growth


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_a_method_is_advised_where_it_holds_and_only_there(matrix, method):
    block, advice = advised(matrix)
    offered = re.search(rf"kn\.{method}\(\)(?:, step_size=([\d.]+))?", advice)
    if offered is None:
        assert grown(block, METHODS[method], 0.1) > 1e6
    else:
        assert grown(block, METHODS[method], float(offered[1] or 1)) < 100


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_an_advised_step_and_an_advised_damping_hold_euler(matrix):
    block, advice = advised(matrix)
    step, damping = re.search(r"h ≤ ([\d.]+)", advice), re.search(r"γ = ([\d.]+)", advice)
    identity, weight = torch.eye(2, dtype=torch.float64), block.weight.detach()
    maps = []
    if step:
        maps.append(identity + float(step[1]) * weight)
    if damping:
        maps.append(identity + weight - 0.5 * float(damping[1]) * identity)
    for each in maps:
        assert torch.linalg.eigvals(each).abs().max() <= 1 + 1e-3
    if not (maps or "kn.stabilised" in advice):
        assert "constrain the branch" in advice


def test_eigenvalues_that_are_not_known_are_no_ground_for_advice():
    spectrum = Spectrum(np.zeros(0, complex), -math.inf, 2.0, complete=False, converged=False)
    layer = LayerStability(0, spectrum, 1.5, 0.5, math.nan, math.nan)
    assert advice_for(layer) == "its eigenvalues did not converge, so no method can be advised"
    some = Spectrum(np.array([0.5 + 0j]), 0.5, 2.0, complete=False, converged=False)
    layer = LayerStability(0, some, 1.5, 0.5, 1.5, 0.0, 1.0)
    assert "eigenvalues μ of ∂F/∂y that were found: real, 0.5" in advice_for(layer)
    assert some.bounds == (0.5, 2.0)


def test_a_rotation_is_not_put_under_verlet():
    _, advice = advised(MATRICES["turning"])
    assert "imaginary" in advice and "Verlet does not (×2.618 a layer)" in advice


def test_growth_of_one_pass_alone_is_told_from_growth_that_compounds():
    block, advice = advised([[-0.5, -9.0], [0.0, -0.5]])
    assert "growth is that of one pass" in advice
    power = torch.linalg.matrix_power(torch.eye(2).double() + block.weight.detach(), 100)
    assert torch.linalg.matrix_norm(power, 2) < 1e-6


def test_without_eigenvalues_nothing_is_promised():
    report = kn.analysis.diagnose(nn.Sequential(*[Linear(MATRICES["planted"])] * 9), X)
    text = " ".join(str(report).split())
    assert text.count("spectra=True says which") == 1 and "complex μ still grow" in text
    assert "and 4 more" in text


def test_a_block_without_parameters_is_held():
    class Half(nn.Module):
        def forward(self, x):
            return x + 0.5 * x

    (row,) = kn.analysis.diagnose(nn.Sequential(Half()), torch.ones(1, 4), spectra=True).blocks
    assert "kn.Verlet()" in row.advice
    with pytest.raises(ValueError, match="pass channels"):
        kn.stabilised([Half()])
    held = kn.stabilised([Half()] * 50, channels=4)
    assert kn.analysis.stability(held, torch.ones(1, 4)).worst.growth < 1.5
    assert held.refined(2).depth == 100


def test_of_a_large_block_what_decides_is_neither_missed_nor_excused():
    """|1 + μ| is largest where neither Re μ nor |μ| is."""
    generator = torch.Generator().manual_seed(0)
    diagonal = torch.linspace(-1.1, -0.9, 420, dtype=torch.float64)
    diagonal[:8] = torch.tensor([-1.9, -1.85, -1.8, -1.75, -0.02, -0.06, -0.1, -0.15])
    matrix = torch.diag(diagonal)
    matrix[8:10, 8:10] = torch.tensor([[-0.5, 1.2], [-1.2, -0.5]])
    turned, _ = torch.linalg.qr(torch.randn(420, 420, dtype=torch.float64, generator=generator))
    block = Linear((turned @ matrix @ turned.T).numpy())
    report = kn.analysis.diagnose(nn.Sequential(block), torch.ones(1, 420).double(), spectra=True)
    (row,) = report.blocks
    (layer,) = row.layers
    assert layer.amplification == pytest.approx(1.3) and layer.certain
    assert layer.step_bound == pytest.approx(1 / 1.69, rel=1e-6)
    assert "h ≤ 0.591" in row.advice and "not normal" not in row.advice


@pytest.mark.parametrize("certain", [False, True])
def test_that_the_branch_is_not_normal_is_said_only_where_no_eigenvalue_can_grow(certain):
    spectrum = Spectrum(np.array([-0.5 + 0j]), -0.5, 2.0, complete=False, converged=True)
    layer = LayerStability(0, spectrum, 1.5, 0.5, 0.5, 4.0, certain=certain)
    assert ("not normal" in advice_for(layer)) == certain
    assert ("others may" in advice_for(layer)) != certain


def test_spectra_that_were_looked_at_are_not_asked_for():
    blocks = [Linear(MATRICES["planted"]) for _ in range(3)]
    held = kn.stabilised(blocks, kn.Euler(), step_size=1.0, channels=2)
    asked = [kn.analysis.stability(held, X, layers=each).blocks[0] for each in (None, [0], "all")]
    assert "layers=" in asked[0].advice
    assert all("layers=" not in row.advice for row in asked[1:])
    turns = kn.stabilised([Linear([[0.0, 0.0], [-2.0, 0.0]])], kn.Euler(), channels=2)
    (row,) = kn.analysis.stability(turns, X, layers="all").blocks
    assert row.unstable and "layers=" not in row.advice


def first_layer(block, method):
    x = torch.randn(1, 16 if isinstance(block, Narrow) else 6).to(next(block.parameters()).dtype)
    held = kn.stabilised([block], method, channels=x.shape[1])
    (row,) = kn.analysis.stability(held, x, layers="all").blocks
    return row, row.layers[0]


TYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", TYPES)
def test_rounding_takes_no_method_away(dtype):
    torch.manual_seed(0)
    block = Narrow(torch.diag(torch.full((4,), -3.0).double()), dtype)
    (row,) = kn.analysis.diagnose(nn.Sequential(block), torch.randn(2, 16).to(dtype), spectra=True).blocks  # fmt: skip
    assert row.layers[0].step_bound == pytest.approx(2 / 3, rel=1e-5)
    assert "y + h F(y) with h ≤ 0.66" in row.advice
    small = Narrow(torch.diag(torch.full((4,), -0.01).double()), dtype)  # beside the y of y + F(y)
    for each, method, bound in (
        (block, kn.Euler(), 2 / 3),
        (block, kn.Verlet(), 2 / 3),
        (block, kn.Leapfrog(), 2 / 3**0.5),
        (small, kn.Euler(), 200),
    ):
        _, layer = first_layer(each, method)
        assert layer.step_bound == pytest.approx(bound, rel=1e-4)
    row, _ = first_layer(block, kn.Euler())
    assert row.advice.startswith("h ≤ 0.6667")
    _, layer = first_layer(Turning(0.0, dtype), kn.Midpoint())
    largest = float(np.abs(layer.spectrum.eigenvalues).max())
    assert largest > 0.1 and layer.step_bound == pytest.approx(1 / largest)


@pytest.mark.parametrize("h", [0.5, 100.0])
def test_what_is_read_off_a_block_has_the_rounding_of_1_however_long_the_step(h):
    torch.manual_seed(0)
    block = Narrow(torch.diag(torch.full((4,), -0.01).double()), torch.float32)
    held = kn.stabilised([block], kn.Euler(), step_size=h, channels=16)
    (row,) = kn.analysis.stability(held, torch.randn(1, 16), layers="all").blocks
    assert row.layers[0].step_bound == pytest.approx(200, rel=1e-4)


@pytest.mark.parametrize(("dtype", "rate"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_growth_beyond_rounding_stays_growth(dtype, rate):
    torch.manual_seed(0)
    core = torch.diag(torch.tensor([-3.0, -3.0, 0.0, 0.0], dtype=torch.float64))
    core[2, 2] = core[3, 3] = rate
    block = Narrow(core, dtype)
    (row,) = kn.analysis.diagnose(nn.Sequential(block), torch.randn(2, 16).to(dtype), spectra=True).blocks  # fmt: skip
    assert row.layers[0].step_bound == 0 and "y + h F(y)" not in row.advice
    _, layer = first_layer(block, kn.Euler())
    assert layer.step_bound == 0 and layer.spectrum.abscissa == pytest.approx(rate, rel=0.05)
    _, layer = first_layer(Turning(rate, dtype), kn.Midpoint())
    assert layer.step_bound == 0
    # Under Verlet a rotation grows; rounding leaves its root in the eigenvalues.
    turn = 200 * rate if dtype == torch.float32 else 1e4 * rate
    core[2:, 2:] = torch.tensor([[0.0, -turn], [turn, 0.0]])
    _, layer = first_layer(Narrow(core, dtype), kn.Verlet())
    assert layer.step_bound == 0 and layer.spectrum.abscissa == pytest.approx(turn, rel=0.05)
