"""Stability reports agree with closed forms, and name the blocks."""

import json
import math

import numpy as np
import pytest
import torch

import keelnet as kn
from keelnet.analysis.derivatives import Jacobian
from keelnet.analysis.singular import extremes
from keelnet.dynamics import Dynamics, Field, Slot
from keelnet.dynamics.hamiltonian import SeparableHamiltonian


def block(integrator, field, weight, depth=10, final_time=1.0):
    control = kn.Control({"weight": weight.expand(depth, *weight.shape).clone()})
    return kn.Block(integrator, field, depth, final_time, control)


def identity_field(kind, n, **arguments):
    return kind(kn.DenseKernel(n), "identity", **arguments)


@pytest.mark.parametrize("seed", range(5))
def test_growth_is_the_largest_singular_value(seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    y = torch.randn(3, 6, dtype=torch.float64, generator=generator)
    growth = extremes(Jacobian(lambda x: (x @ matrix).tanh(), y), iterations=300, small=0).largest
    for sample, found in zip(y, growth, strict=True):
        jacobian = torch.func.jacrev(lambda x: (x @ matrix).tanh())(sample)
        assert found == pytest.approx(float(torch.linalg.matrix_norm(jacobian, 2)), rel=1e-6)


def test_products_are_those_of_the_jacobian():
    y = torch.randn(1, 5, dtype=torch.float64)
    weight = torch.randn(5, 5, dtype=torch.float64)
    jacobian = Jacobian(lambda x: torch.tanh(x @ weight), y)
    dense = torch.func.jacrev(lambda x: torch.tanh(x @ weight))(y[0])
    v = torch.randn(1, 5, dtype=torch.float64)
    torch.testing.assert_close(jacobian.pushed(v)[0], dense @ v[0])
    torch.testing.assert_close(jacobian.pulled(v)[0], dense.T @ v[0])


@pytest.mark.parametrize(
    ("matrix", "verdict"),
    [
        ([[2.0, -2.0], [0.0, 2.0]], "unstable"),
        ([[-2.0, 0.0], [2.0, -2.0]], "dissipative"),
        ([[0.0, -1.0], [1.0, 0.0]], "unstable"),  # Euler on a rotation, for every h
    ],
)
def test_the_source_s_matrices_get_their_verdicts(matrix, verdict):
    weight = torch.tensor(matrix)
    subject = block(kn.Euler(), kn.SingleField(kn.DenseKernel(2)), weight)
    report = kn.analysis.stability(subject, torch.zeros(1, 2))
    assert report.blocks[0].verdict.startswith(verdict)
    eigenvalues = torch.linalg.eigvals(weight)
    assert report.blocks[0].amplification == pytest.approx(
        float((1 + 0.1 * eigenvalues).abs().max())
    )


@pytest.mark.parametrize(("product", "verdict"), [(1.99, "marginal"), (2.01, "unstable")])
def test_verlet_turns_at_its_bound(product, verdict):
    weight = torch.diag(torch.tensor([1.0, 0.3], dtype=torch.float64)) * product / 0.1
    subject = block(kn.Verlet(), identity_field(kn.HamiltonianField, 2), weight).double()
    report = kn.analysis.stability(subject, torch.randn(2, 4, dtype=torch.float64))
    assert report.blocks[0].verdict.startswith(verdict)
    assert report.stable == (verdict == "marginal")
    assert report.blocks[0].step_bound == pytest.approx(2 / (product / 0.1))


def test_a_linear_rotation_has_the_growth_of_its_layers():
    weight = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    subject = block(kn.Euler(), identity_field(kn.SingleField, 2), weight).double()
    (row,) = kn.analysis.stability(subject, torch.randn(3, 2, dtype=torch.float64)).blocks
    assert row.growth == pytest.approx((1 + 0.1**2) ** 5, rel=1e-9)
    assert row.amplification == pytest.approx(math.sqrt(1 + 0.1**2))


@pytest.mark.parametrize(
    ("method", "matrix", "rate"),
    [
        (kn.Euler(), [[-9e-4, 1.0], [-1.0, -9e-4]], -9e-4),
        # Under Verlet λ = ±√−μ² with μ = ±0.03 i.
        (kn.Verlet(), [[1.0, 0.0, 0.0], [0.0, 0.0, 0.03], [0.0, -0.03, 0.0]], 0.03),
    ],
    ids=["euler", "verlet"],
)
def test_a_small_rate_is_no_rounding_however_short_the_step(method, matrix, rate):
    branch = torch.nn.Linear(len(matrix), len(matrix), bias=False)
    branch.weight = torch.nn.Parameter(torch.tensor(matrix))
    subject = kn.Block(method, kn.ModuleField(branch), depth=10, final_time=0.01)
    (row,) = kn.analysis.stability(subject, torch.ones(1, len(matrix)), layers=1).blocks
    (layer,) = row.layers
    assert layer.spectrum.abscissa == pytest.approx(rate, rel=1e-4)
    if rate < 0:
        assert layer.step_bound == pytest.approx(1.8e-3, rel=1e-4) and layer.amplification < 1
    else:
        assert layer.step_bound == 0 and layer.amplification > 1


def test_automatic_damping_is_marginal_and_its_bound_is_the_step():
    field = kn.AntisymmetricField(kn.DenseKernel(4), damping="auto")
    subject = kn.Block(kn.Euler(), field, depth=20).double()
    (row,) = kn.analysis.stability(subject, torch.randn(3, 4, dtype=torch.float64)).blocks
    assert row.verdict.startswith("marginal")
    assert row.step_bound == pytest.approx(0.05)


@pytest.mark.parametrize(
    "name",
    ["residual", "antisymmetric", "hamiltonian", "double_hamiltonian", "parabolic", "second_order"],
)
def test_every_architecture_is_reported_block_by_block(name):
    network = getattr(kn.architectures, name)(2, 3, width=(4, 8), depth=3, dim=2)
    network.train()
    report = kn.analysis.stability(network, torch.randn(2, 2, 8, 8))
    text = str(report)
    names = [part for part, module in network.named_modules() if isinstance(module, kn.Block)]
    assert [row.name for row in report.blocks] == names and len(names) == 2
    assert all(part in text for part in names)
    assert network.training and all(row.growth > 0 for row in report.blocks)


def test_a_module_field_is_judged_by_its_growth():
    branch = torch.nn.Linear(3, 3)
    subject = kn.Block(kn.Euler(), kn.ModuleField(branch), depth=4)
    (row,) = kn.analysis.stability(subject, torch.randn(2, 3)).blocks
    assert row.step_bound is None
    assert row.verdict in ("grows", "does not grow")


def test_a_block_within_a_module_field_is_part_of_the_block_that_runs_it():
    inner = kn.Block(kn.Euler(), kn.ModuleField(torch.nn.Linear(3, 3)), depth=2)
    branch = torch.nn.Sequential(inner, torch.nn.Linear(3, 3))
    subject = kn.Block(kn.Euler(), kn.ModuleField(branch), depth=4)
    report = kn.analysis.stability(torch.nn.Sequential(subject), torch.randn(2, 3))
    assert [row.name for row in report.blocks] == ["0"]


@pytest.mark.parametrize("x", [torch.tensor([[math.nan, 0.0]]), torch.zeros(1, 2, dtype=int), 3.0])
def test_bad_inputs_are_refused(x):
    subject = block(kn.Euler(), kn.SingleField(kn.DenseKernel(2)), torch.eye(2))
    with pytest.raises(ValueError, match="must be a tensor of f"):
        kn.analysis.stability(subject, x)


def test_a_network_without_blocks_is_sent_to_diagnose():
    with pytest.raises(ValueError, match="diagnose"):
        kn.analysis.stability(torch.nn.Linear(2, 2), torch.zeros(1, 2))


MATRICES = {"plus": [[2.0, -2.0], [0.0, 2.0]], "minus": [[-2.0, 0.0], [2.0, -2.0]], "zero": [[0.0, -1.0], [1.0, 0.0]]}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "eigenvalue", "numerical", "bound", "damping"),
    [
        ("plus", 2, 3, 0, 4),  # γ moves 2 to 0
        ("minus", -2, -1, 1, 0),  # −2 Re λ / |λ|²
        ("zero", 1j, 0, 0, 2 * (1 - math.sqrt(1 - 0.01)) / 0.1),  # γ (1 − h γ/4) = h ω²
    ],
)
def test_the_layers_of_the_source_s_matrices_match_closed_forms(
    name, eigenvalue, numerical, bound, damping
):
    weight = torch.tensor(MATRICES[name], dtype=torch.float64)
    subject = block(kn.Euler(), kn.SingleField(kn.DenseKernel(2)), weight)
    report = kn.analysis.stability(subject, torch.zeros(1, 2, dtype=torch.float64), layers="all")
    (row,) = report.blocks
    assert [each.layer for each in row.layers] == list(range(10))
    for layer in row.layers:  # at y = 0, where f' = 1
        spectrum = layer.spectrum
        assert {round(abs(each - eigenvalue), 9) for each in spectrum.eigenvalues} <= {
            0.0,
            round(abs(2 * eigenvalue.imag), 9),
        }
        assert spectrum.abscissa == pytest.approx(complex(eigenvalue).real, abs=1e-9)
        assert spectrum.numerical == pytest.approx(numerical, abs=1e-9)
        assert layer.amplification == pytest.approx(abs(1 + 0.1 * eigenvalue))
        assert layer.margin == pytest.approx(1 - abs(1 + 0.1 * eigenvalue))
        assert layer.step_bound == pytest.approx(bound, abs=1e-9)
        assert layer.damping == pytest.approx(damping, abs=1e-9)
        exact = torch.linalg.svdvals(torch.eye(2, dtype=torch.float64) + 0.1 * weight)
        assert [layer.largest, layer.smallest] == pytest.approx(exact.tolist(), rel=1e-9)
    assert row.damping == pytest.approx(damping, abs=1e-9)
    power = torch.linalg.matrix_power(torch.eye(2, dtype=torch.float64) + 0.1 * weight, 10)
    largest, smallest = torch.linalg.svdvals(power).tolist()
    assert [row.growth, row.smallest] == pytest.approx([largest, smallest], rel=1e-9)
    assert row.exponents == pytest.approx((math.log(largest), math.log(smallest)))  # T = 1
    assert row.course[-1] == pytest.approx((largest, smallest))


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_a_random_antisymmetric_layer_has_real_part_minus_half_of_gamma(gamma):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    field = kn.AntisymmetricField(kn.DenseKernel(6), damping=gamma)
    subject = block(kn.Euler(), field, weight)
    with pytest.warns(kn.StabilityWarning):
        report = kn.analysis.stability(subject, torch.zeros(1, 6, dtype=torch.float64), layers=[0])
    (layer,) = report.blocks[0].layers
    assert layer.spectrum.eigenvalues.real == pytest.approx([-gamma / 2] * 6, abs=1e-9)
    assert layer.spectrum.numerical == pytest.approx(-gamma / 2, abs=1e-9)  # normal
    omega = float(torch.linalg.matrix_norm((weight - weight.T) / 2, 2))
    assert layer.spectrum.eigenvalues.imag.max() == pytest.approx(omega)
    assert report.blocks[0].verdict.startswith("unstable")
    least = report.blocks[0].damping
    assert least * (1 - 0.1 * least / 4) == pytest.approx(0.1 * omega**2)
    held = kn.AntisymmetricField(kn.DenseKernel(6), damping=least)
    report = kn.analysis.stability(
        block(kn.Euler(), held, weight), torch.zeros(1, 6, dtype=torch.float64)
    )
    assert report.blocks[0].verdict.startswith("marginal")


@pytest.mark.parametrize("product", [1.99, 2.01])
def test_a_layer_of_verlet_turns_at_its_bound(product):
    weight = torch.diag(torch.tensor([1.0, 0.3], dtype=torch.float64)) * product / 0.1
    subject = block(kn.Verlet(), identity_field(kn.HamiltonianField, 2), weight).double()
    report = kn.analysis.stability(subject, torch.ones(1, 4, dtype=torch.float64), layers=2)
    for layer in report.blocks[0].layers:
        assert layer.spectrum.eigenvalues.imag.max() * 0.1 == pytest.approx(product)
        assert layer.spectrum.abscissa == 0
        trace = product**2 - 2  # r² + (h² σ² − 2) r + 1 = 0
        root = max(1.0, (trace + math.sqrt(max(trace**2 - 4, 0))) / 2)
        assert layer.amplification == pytest.approx(root)
        assert (layer.margin < -1e-6) == (product > 2)
        assert layer.step_bound == pytest.approx(2 / (product / 0.1))
    assert report.blocks[0].needed_depth == (10 if product < 2 else 11)


def test_resonance_is_unstable_though_no_frozen_layer_grows():
    kernel = kn.DenseKernel(1)
    fast, slow = torch.full((8, 1, 1), 2.0), torch.full((16, 1, 1), 1.0)
    weight = torch.cat([fast, slow]).repeat(25, 1, 1).double()
    control = kn.Control({"weight_1": torch.ones_like(weight), "weight_2": weight})
    field = kn.DoubleHamiltonianField(kernel, kernel, "identity")
    subject = kn.Block(kn.Verlet(), field, len(weight), 0.1 * len(weight), control)
    report = kn.analysis.stability(subject, torch.zeros(1, 2, dtype=torch.float64))
    (row,) = report.blocks
    assert row.amplification == pytest.approx(1) and row.growth > 1e6
    assert row.verdict.startswith("unstable") and "no layer grows" in row.verdict
    assert not report.stable and "smooth" in row.advice


def test_the_worst_sample_is_the_one_that_is_looked_at():
    weight = torch.eye(2, dtype=torch.float64)
    subject = block(kn.Euler(), kn.SingleField(kn.DenseKernel(2)), weight)
    x = torch.tensor([[9.0, 9.0], [0.0, 0.0], [3.0, 3.0]], dtype=torch.float64)  # tanh' is 1 at 0
    (row,) = kn.analysis.stability(subject, x, layers=[0]).blocks
    assert row.sample == 1 and row.layers[0].largest == pytest.approx(1.1)


def test_a_report_is_json_without_what_json_does_not_know():
    subject = block(kn.Euler(), kn.SingleField(kn.DenseKernel(2)), torch.zeros(2, 2))
    report = kn.analysis.stability(subject, torch.zeros(1, 2), layers=3)
    table = json.loads(report.to_json())
    (row,) = table["blocks"]
    assert table["stable"] and row["verdict"].startswith("marginal")
    assert row["step_bound"] is None  # every step is stable: inf
    assert len(row["layers"]) == 3 and len(row["course"]) == 10
    assert row["layers"][0]["spectrum"]["eigenvalues"] == [[0.0, 0.0], [0.0, 0.0]]


class Draws(torch.nn.Module):
    """Dropout that is left on."""

    def __init__(self, share):
        super().__init__()
        self.block = kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(3)), depth=2)
        self.share = share

    def forward(self, x):
        return torch.nn.functional.dropout(self.block(x), self.share, training=True)


def test_randomness_that_evaluation_leaves_on_is_refused():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="draws random numbers in evaluation mode"):
        kn.analysis.stability(Draws(0.5), torch.ones(2, 3))
    assert kn.analysis.stability(Draws(0.0), torch.ones(2, 3)).blocks  # drawn, and without effect


@pytest.mark.parametrize(
    ("x", "layers", "message"),
    [
        (torch.ones(2, 2, device="meta"), None, "x is on meta, but the network on cpu"),
        (torch.ones(0, 2), None, "at least one sample"),
        (torch.ones(2, 2), [10], "numbers from 0 to 9"),
        (torch.ones(2, 2), 0, "layers must be an integer of at least 1"),
    ],
)
def test_bad_input_is_named(x, layers, message):
    subject = block(kn.Euler(), kn.SingleField(kn.DenseKernel(2)), torch.eye(2))
    with pytest.raises(ValueError, match=message):
        kn.analysis.stability(subject, x, layers=layers)


def test_a_step_size_of_zero_is_refused():
    subject = block(kn.Euler(), kn.SingleField(kn.DenseKernel(2)), torch.eye(2))
    subject.final_time = 0.0
    with pytest.raises(ValueError, match=r"step.size"):
        kn.analysis.stability(subject, torch.ones(2, 2))


@pytest.mark.parametrize("name", ["residual", "hamiltonian", "second_order"])
def test_pictures_are_drawn_of_blocks_whose_layers_were_looked_at(name):
    network = getattr(kn.architectures, name)(2, 3, width=4, depth=3)
    (row,) = kn.analysis.stability(network, torch.randn(2, 2), layers=2).blocks
    assert len(row.layers) == 2
    spectra, growth = kn.analysis.spectra_figure(row), kn.analysis.growth_figure(row)
    points = sum(len(each.get_offsets()) for each in spectra.axes[0].collections if each.get_array() is not None and len(each.get_offsets()) > 1)  # fmt: skip
    assert points >= sum(len(layer.spectrum.eigenvalues) for layer in row.layers)
    assert len(growth.axes) == 2
    labels = growth.axes[1].get_legend_handles_labels()[1]
    assert f"max |R({'h² λ' if name == 'second_order' else 'h λ'})|" in labels
    (bare,) = kn.analysis.stability(network, torch.randn(2, 2)).blocks
    for draw in (kn.analysis.spectra_figure, kn.analysis.growth_figure):
        with pytest.raises(ValueError, match="ask for them"):
            draw(bare)


@pytest.mark.parametrize(("stencil", "bound"), [([0.0, -1.0, 0.0], 2.0), ([1.0, -2.0, 1.0], 0.5)])
def test_a_residual_convolution_has_the_bound_of_its_stencil(stencil, bound):
    """−I, and the Laplacian, whose eigenvalues lie in [−4, 0]."""
    weight = torch.tensor(stencil, dtype=torch.float64).reshape(1, 1, 3)
    subject = block(kn.Euler(), kn.SingleField(kn.ConvKernel(1, dim=1), "identity"), weight)
    (row,) = kn.analysis.stability(subject, torch.randn(1, 1, 16, dtype=torch.float64)).blocks
    assert row.step_bound == pytest.approx(bound)
    assert row.amplification <= 1 + 1e-9


class Watched(torch.nn.Module):
    """A branch with statistics, whose ``eval`` does what ``train`` does not undo."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)
        self.evaluated = 0

    def forward(self, y):
        return self.norm(y).tanh()

    def train(self, mode=True):
        self.evaluated += not mode
        return super().train(mode)


def test_a_users_branch_is_left_as_it_was():
    branch = Watched()
    branch.norm.running_mean += 0.3
    subject = kn.Block(kn.Euler(), kn.ModuleField(branch), 3, 1.0)
    before = {name: value.clone() for name, value in branch.state_dict().items()}
    report = kn.analysis.stability(subject, torch.randn(5, 4))
    assert all(torch.equal(value, before[name]) for name, value in branch.state_dict().items())
    assert branch.training and branch.norm.training and branch.evaluated == 0
    branch.eval()
    assert kn.analysis.stability(subject, torch.zeros(1, 4)).blocks[0].growth > 1
    assert report.blocks[0].growth > 1


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_full(kind):
    torch.manual_seed(0)
    subject = kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(100)), 2, 1.0)
    x = torch.randn(1, 100)
    halved = kn.analysis.stability(subject.to(kind), x.to(kind)).blocks[0]
    whole = kn.analysis.stability(subject.float(), x.to(kind).float()).blocks[0]
    assert halved.growth == pytest.approx(whole.growth, rel=1e-5)


class Partly(torch.nn.Module):
    """Of two blocks one is called."""

    def __init__(self, none=False):
        super().__init__()
        self.used, self.head = (
            kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(4)), 2, 1.0) for _ in range(2)
        )
        self.none = none

    def forward(self, x):
        return x if self.none else self.used(x)


def test_a_block_that_is_not_called_is_named():
    report = kn.analysis.stability(Partly(), torch.randn(1, 4))
    assert [row.name for row in report.blocks] == ["used"]
    assert any(note.startswith("head: not called") for note in report.notes)
    with pytest.raises(ValueError, match="used, head got no tensor"):
        kn.analysis.stability(Partly(none=True), torch.randn(1, 4))


def test_a_small_input_with_a_large_output_takes_little_memory():
    decoder = torch.nn.Sequential(torch.nn.Linear(8, 200_000), torch.nn.Tanh())
    network = torch.nn.Sequential(decoder)
    x = torch.randn(2, 8)
    (row,) = kn.analysis.diagnose(network, x, blocks=["0"]).blocks
    values = []
    for sample in x:
        slope = 1 - decoder(sample).detach() ** 2
        values.append(torch.linalg.svdvals(slope[:, None] * decoder[0].weight.detach()))
    assert row.growth == pytest.approx(float(max(each[0] for each in values)), rel=1e-4)


def test_a_plain_block_is_not_called_dissipative_by_its_largest_slopes():
    """Eigenvalues of diag(f') K are not bounded by those of K."""
    theta = {"weight": torch.tensor([[1.0, 4.0], [-4.0, -2.0]]), "bias": torch.tensor([0.0, 6.0])}
    control = kn.Control({name: value.expand(20, *value.shape) for name, value in theta.items()})
    subject = kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(2)), 20, 1.0, control).double()
    x = torch.zeros(1, 2, dtype=torch.float64)
    (blind,) = kn.analysis.stability(subject, x).blocks
    assert blind.amplification == pytest.approx(0.992472, abs=1e-6)
    assert blind.growth == pytest.approx(1.734, abs=1e-3)
    assert blind.verdict == "marginal: ×1.73 in all, though no layer grows at the largest f'"
    (row,) = kn.analysis.stability(subject, x, layers=[0]).blocks
    assert row.verdict.startswith("unstable: up to ×1.0499")
    # The bound of the layer that was looked at is 0, below the block's own: no h is offered.
    assert row.step_bound > row.step_size and "h ≤" not in row.advice and "γ" not in row.advice


def test_the_smallest_bound_that_is_known_is_advised():
    """−tr / det of diag(1, s) K is 1.5 / 15 at s = 1, and 0.5 / 7.5 at the first layer."""
    half = math.atanh(math.sqrt(0.5))
    theta = {"weight": torch.tensor([[0.5, 4.0], [-4.0, -2.0]]), "bias": torch.tensor([0.0, half])}
    control = kn.Control({name: value.expand(5, *value.shape) for name, value in theta.items()})
    subject = kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(2)), 5, 0.4, control).double()
    (row,) = kn.analysis.stability(subject, torch.zeros(1, 2).double(), layers=[0]).blocks
    assert row.step_bound == pytest.approx(0.1) and row.layers[0].step_bound < row.step_size
    assert row.advice == "h ≤ 0.06667: 6 layers at T = 0.4"


@pytest.mark.filterwarnings("ignore::keelnet.propagation.StabilityWarning")  # without damping
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "silu", "gelu"])
@pytest.mark.parametrize("own", [0.0, 0.001])
def test_the_advised_damping_is_marginal_whatever_the_slope(activation, own):
    torch.manual_seed(0)
    field = kn.AntisymmetricField(kn.DenseKernel(4), activation, damping=own)
    subject = kn.Block(kn.Euler(), field, 10, 1.0).double()
    with torch.no_grad():
        subject.control.weight.mul_(4)
    x = torch.randn(2, 4, dtype=torch.float64)
    (row,) = kn.analysis.stability(subject, x).blocks
    assert row.amplification > 1 + 1e-6
    held = kn.Block(kn.Euler(), field.with_damping(row.damping), 10, 1.0, subject.control)
    assert kn.analysis.stability(held, x).blocks[0].amplification == pytest.approx(1, abs=1e-9)


NORMED = {
    "single": (kn.Euler(), kn.SingleField(kn.DenseKernel(4), norm=kn.ChannelNorm())),
    "hamiltonian": (kn.Verlet(), kn.HamiltonianField(kn.DenseKernel(4), norm=kn.ChannelNorm())),
}


@pytest.mark.parametrize(("method", "field"), NORMED.values(), ids=NORMED)
def test_under_a_norm_bounds_are_those_of_the_layers_that_were_looked_at(method, field):
    torch.manual_seed(0)
    subject, x = kn.Block(method, field, 5, 1.0), torch.randn(2, 4)
    blind, some, whole = (kn.analysis.stability(subject, x, layers=each) for each in (None, [1], "all"))  # fmt: skip
    (row,) = blind.blocks
    assert row.step_bound is None and row.verdict in ("grows", "does not grow")
    assert any("ask for layers" in note for note in blind.notes)
    for report in (some, whole):
        (row,) = report.blocks
        assert row.amplification == max(layer.amplification for layer in row.layers)
        tightest = min(row.layers, key=lambda layer: layer.step_bound)
        assert (row.step_bound, row.bound_layer) == (tightest.step_bound, tightest.layer)
    assert any("that were looked at" in note for note in some.notes) and whole.notes == ()


def test_a_block_that_is_called_again_is_measured_again():
    torch.manual_seed(0)
    shared = kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(3)), 4)
    x = torch.randn(2, 3)
    first, second = kn.analysis.stability(torch.nn.Sequential(shared, shared), x).blocks
    assert (first.name, second.name) == ("0", "0 (call 2)")
    assert second.growth == kn.analysis.stability(shared, shared(x)).blocks[0].growth


def test_layers_of_a_kernel_that_is_much_wider_on_one_side_are_looked_at():
    subject = kn.Block(kn.Verlet(), kn.HamiltonianField(kn.DenseKernel(4, 500)), 1, 1.0)
    (row,) = kn.analysis.stability(subject, torch.zeros(1, 4), layers=1).blocks
    omega = torch.linalg.matrix_norm(subject.control.weight[0].detach(), 2)
    found = row.layers[0].spectrum
    assert found.eigenvalues.imag.max() == pytest.approx(float(omega), rel=1e-5)


def test_a_spectrum_that_did_not_converge_is_drawn_as_such():
    empty = kn.analysis.Spectrum(np.zeros(0, complex), -math.inf, 2.0, False, False)
    layer = kn.analysis.LayerStability(0, empty, 1.5, 0.5, math.nan, math.nan)
    row = kn.analysis.BlockStability("0", "Step", 1, 1.5, layers=(layer,), integrator=kn.Euler())
    (axes, *_) = kn.analysis.spectra_figure(row).axes
    assert "no eigenvalue converged" in axes.get_title()


def test_the_first_direction_lies_on_the_cpu_whatever_the_default_device():
    torch.manual_seed(0)
    subject, x = kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(70)), 3), torch.randn(1, 70)
    expected = kn.analysis.stability(subject, x, layers=[0]).blocks[0].course
    with torch.device("meta"):
        found = kn.analysis.stability(subject, x, layers=[0]).blocks[0].course
    assert [size for size, _ in found] == [size for size, _ in expected]


class Damped(Dynamics):
    """y'' = −tanh(y K) − 0.3 y'."""

    channel_axis = -1

    def theta_shapes(self):
        return {"k": Slot((3, 3), initial=torch.eye(3))}

    def parts(self, y0):
        return y0, torch.zeros_like(y0)

    def is_split(self, y0):
        return False

    def rates(self, parts, theta):
        y, v = parts
        return v, -0.3 * v - (y @ theta["k"]).tanh()


class Remembering(kn.Euler):
    """Adams and Bashforth's method of two steps, on any number of parts."""

    def begin(self, parts):
        return (*parts, *map(torch.zeros_like, parts))

    def step(self, field, state, theta, h, layer):
        parts = self.finish(state)
        now, ahead = (1.0, 0.0) if layer == 0 else (1.5, -0.5)
        rates = field.rates(parts, theta)
        moved = (
            y + h * (now * rate + ahead * before)
            for y, rate, before in zip(parts, rates, state[len(parts) :], strict=True)
        )
        return (*moved, *rates)

    def finish(self, state):
        return state[: len(state) // 2]


class Gated(Field):
    """y' = tanh(linear(y) K), the linear map a module's."""

    channel_axis = -1

    def __init__(self):
        self.linear = torch.nn.Linear(3, 3)

    def theta_shapes(self):
        return {"k": Slot((3, 3), initial=torch.eye(3))}

    def parts(self, y0):
        return (y0,)

    def held(self):
        return {"linear": self.linear}

    def rate(self, y, theta):
        return (self.linear(y) @ theta["k"]).tanh()


@pytest.mark.parametrize(
    ("method", "field", "eigenvalues"),
    [
        (kn.RK4(), Damped(), 6),
        (Remembering(), kn.HamiltonianField(kn.DenseKernel(3)), 6),
        (Remembering(), kn.SingleField(kn.DenseKernel(3)), 3),
        (kn.Euler(), Gated(), 3),
    ],
    ids=["two parts", "four tensors", "two tensors", "holds a module"],
)
def test_layers_of_one_s_own_states_and_modules_are_looked_at(method, field, eigenvalues):
    torch.manual_seed(0)
    (row,) = kn.analysis.stability(
        kn.Block(method, field, 3), torch.randn(2, 3), layers="all"
    ).blocks
    assert [len(each.spectrum.eigenvalues) for each in row.layers] == 3 * [eigenvalues]
    assert row.course[-1][0] == pytest.approx(row.growth, rel=1e-5)


class Doubled(SeparableHamiltonian):
    """Another field with an energy: 2 H."""

    def __init__(self, field):
        self.field, self.activation, self.norm = field, field.activation, field.norm

    widths = property(lambda self: self.field.widths)
    reader = property(lambda self: self.field.reader)

    def theta_shapes(self):
        return self.field.theta_shapes()

    def rate_of_y(self, z, theta):
        return 2 * self.field.rate_of_y(z, theta)

    def rate_of_z(self, y, theta):
        return 2 * self.field.rate_of_z(y, theta)

    def energy(self, y, z, theta):
        return 2 * self.field.energy(y, z, theta)

    def frequencies(self, controls):
        return 2 * self.field.frequencies(controls)


def test_every_field_with_an_energy_is_measured_by_it():
    weight = 0.5 * torch.eye(2, dtype=torch.float64)
    y = torch.ones(1, 4).double()

    def measured(field, final_time):
        subject = block(kn.Verlet(), field, weight, final_time=final_time)
        return kn.analysis.stability(subject, y).blocks[0]

    once = kn.HamiltonianField(kn.DenseKernel(2), "sin")
    found, wanted = measured(Doubled(once), 0.5), measured(once, 1.0)
    assert found.energy_deviation == pytest.approx(wanted.energy_deviation, rel=1e-9)
    assert found.reach == wanted.reach and "may be negative" in found.reach
    normed = Doubled(kn.HamiltonianField(kn.DenseKernel(2), norm=kn.ChannelNorm()))
    controls = {"weight": weight, "scale": torch.ones(2)}
    depth = {name: value.double().expand(3, *value.shape) for name, value in controls.items()}
    report = kn.analysis.stability(kn.Block(kn.Verlet(), normed, 3, 1.0, kn.Control(depth)), y)
    assert any("under norm=" in note for note in report.notes)


class Unbounded(kn.Euler):
    """Whose stability nobody has worked out."""

    def amplification(self, h, eigenvalues):
        raise NotImplementedError

    def largest_steps(self, eigenvalues):
        raise NotImplementedError


def test_a_method_without_bounds_is_judged_by_its_growth():
    weight = torch.eye(2)
    subject = block(Unbounded(), identity_field(kn.SingleField, 2), weight)
    (row,) = kn.analysis.stability(subject, torch.ones(1, 2), layers="all").blocks
    assert row.growth == pytest.approx(1.1**10, rel=1e-5) and row.verdict == "grows"
    assert row.step_bound is None and row.amplification is None and row.advised_step is None
    assert math.isnan(row.layers[0].step_bound) and math.isnan(row.layers[0].amplification)
    assert kn.analysis.spectra_figure(row).axes[0].collections  # the spectra, without a region


@pytest.mark.parametrize(
    ("layers", "numbers"),
    [(np.arange(2), [0, 1]), (np.array([2]), [2]), (torch.arange(2), [0, 1]), ((1,), [1]), (np.int64(2), [0, 2])],
)  # fmt: skip
def test_layers_may_be_named_by_any_integers(layers, numbers):
    subject = kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(2)), 3)
    (row,) = kn.analysis.stability(subject, torch.zeros(1, 2), layers=layers).blocks
    assert [each.layer for each in row.layers] == numbers


@pytest.mark.parametrize("layers", [np.array([0.5]), np.array([3]), 2.5, ["0"]])
def test_other_layers_are_refused(layers):
    subject = kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(2)), 3)
    with pytest.raises(ValueError, match='layers must be "all", how many, or numbers from 0 to 2'):
        kn.analysis.stability(subject, torch.zeros(1, 2), layers=layers)


@pytest.mark.parametrize(
    ("method", "certain"), [(kn.Euler(), True), (kn.Verlet(), False), (kn.Leapfrog(), False)]
)
def test_of_many_numbers_what_may_be_worse_is_marked(method, certain):
    """μ from 0.1 to 2: under Euler what decides is looked for."""
    matrix = torch.diag(torch.linspace(0.1, 2, 420)).double()
    matrix[0, 1], matrix[1, 0] = 0.5, -0.5
    branch = torch.nn.Linear(420, 420, bias=False).double()
    branch.weight.data.copy_(-matrix)
    subject = kn.Block(method, kn.ModuleField(branch), 1, 0.5)
    x = torch.ones(1, 420, dtype=torch.float64)
    report = kn.analysis.stability(subject, x, layers="all", iterations=5)
    (layer,) = report.blocks[0].layers
    assert layer.certain == certain and not layer.spectrum.complete
    cells = cells_of(report)
    assert ("≥" in cells["max |R|"]) != certain and ("≤" in cells["margin"]) != certain
    assert not layer.largest_converged and cells["σ max"].startswith("≥ ")


def cells_of(report):
    """The first line of the table of layers, by heading."""
    lines = str(report).partition("layer by layer")[2].splitlines()
    headings, line = (next(each for each in lines if each.startswith(mark)) for mark in "┃│")
    return dict(
        zip(*(map(str.strip, each.split(each[0])) for each in (headings, line)), strict=True)
    )


@pytest.mark.parametrize(("iterations", "reached"), [(1, False), (40, True)])
def test_singular_values_of_a_layer_that_were_not_reached_are_marked(iterations, reached):
    branch = torch.nn.Linear(420, 420, bias=False).double()
    branch.weight.data.copy_(torch.diag(torch.tensor([3.0] + 419 * [1.0]).double()))
    branch.weight.data[1, 1] = -1.5
    subject = kn.Block(kn.Euler(), kn.ModuleField(branch), 1, 0.5)
    report = kn.analysis.stability(subject, torch.ones(1, 420).double(), layers=1, iterations=iterations)  # fmt: skip
    (layer,) = report.blocks[0].layers
    assert (layer.largest_converged, layer.smallest_converged) == (reached, reached)
    cells = cells_of(report)
    assert ("≥" in cells["σ max"], "≤" in cells["σ min"]) == (not reached, not reached)
    if reached:
        assert (layer.largest, layer.smallest) == pytest.approx((2.5, 0.25), rel=1e-6)


@pytest.mark.parametrize("iterations", [0, 2.5, True])
def test_iterations_are_counted(iterations):
    subject = kn.Block(kn.Euler(), kn.SingleField(kn.DenseKernel(2)), 3)
    with pytest.raises(ValueError, match="iterations must be an integer of at least 1"):
        kn.analysis.stability(subject, torch.zeros(1, 2), iterations=iterations)


def imex(diffusion, field, weight, h=0.1):
    method = kn.IMEX(kn.DenseDiffusion(torch.as_tensor(diffusion).double()))
    return block(method, field, torch.as_tensor(weight).double(), final_time=10 * h).double()


TURING = {  # both halves decay, the layer does not
    "single": imex([[0.0, 0.0], [0.0, 10.0]], kn.SingleField(kn.DenseKernel(2), "identity"), [[1.0, 3.0], [-1.0, -2.0]]),
    "single tanh": imex([[2.0, 1.0], [1.0, 3.0]], kn.SingleField(kn.DenseKernel(2)), [[1.0, -0.4], [0.3, -2.0]]),
    "antisymmetric": imex([[2.0, 1.0], [1.0, 3.0]], kn.AntisymmetricField(kn.DenseKernel(2), damping=0.1), [[0.0, 1.0], [-1.0, 0.0]]),
    "symmetric": imex([[2.0, 1.0], [1.0, 3.0]], kn.SymmetricField(kn.DenseKernel(2, 3)), torch.arange(6.0).reshape(2, 3) / 3),
    "sin": imex([[2.0, 1.0], [1.0, 3.0]], kn.SingleField(kn.DenseKernel(2), "sin"), [[1.0, -0.4], [0.3, -2.0]]),
}  # fmt: skip


@pytest.mark.parametrize("name", TURING)
def test_a_layer_of_imex_is_amplified_by_its_own_map(name):
    subject, y = TURING[name], torch.tensor([[0.3, -0.2]]).double()
    (row,) = kn.analysis.stability(subject, y, layers=[0]).blocks
    (theta,) = ({key: value[0] for key, value in subject.control(10).items()},)
    slope = torch.func.jacrev(lambda y: subject.field.rate(y, theta))(y)[0, :, 0].detach()
    eye, h = torch.eye(2).double(), subject.step_size
    step = torch.linalg.solve(eye + h * subject.integrator.diffusion.matrix, eye + h * slope)
    wanted = float(torch.linalg.eigvals(step).abs().max())
    assert row.layers[0].amplification == pytest.approx(wanted, rel=1e-9)
    assert math.isnan(row.layers[0].step_bound) == (name != "symmetric")


def test_two_halves_that_decay_and_grow_together_are_not_called_stable():
    """An activator, and an inhibitor that diffuses (Turing 1952): (I + h L)⁻¹ (I + h A) has the eigenvalue 1.078."""
    subject, y = TURING["single"], torch.ones(1, 2).double()
    explicit = np.array([-0.5 + 0.75**0.5 * 1j])
    assert subject.integrator.amplification(0.1, explicit) < 1 and subject.integrator.largest_steps(explicit) > 0.1  # fmt: skip
    blind, whole = (kn.analysis.stability(subject, y, layers=each) for each in (None, "all"))
    (row,) = blind.blocks
    assert (row.step_bound, row.amplification, row.verdict) == (None, None, "grows")
    assert 'under IMEX field and diffusion decide together whether a layer grows: ask for layers="all"' in blind.notes[0]  # fmt: skip
    (row,) = whole.blocks
    assert row.verdict.startswith("unstable: up to ×1.0778") and row.step_bound is None
    assert not blind.stable and not whole.stable and whole.notes == ()
    assert cells_of(whole)["step bound"] == cells_of(whole)["N for it"] == "?"


@pytest.mark.filterwarnings("error")
def test_what_the_diffusion_holds_is_not_called_unstable():
    """Each layer multiplies by √1.01 / 2, although the explicit half grows at every h."""
    field = kn.AntisymmetricField(kn.DenseKernel(2), "identity")
    subject = imex([[10.0, 0.0], [0.0, 10.0]], field, [[0.0, 1.0], [-1.0, 0.0]])
    for layers, verdict in ((None, "does not grow"), ("all", "dissipative: up to ×0.502494")):
        report = kn.analysis.stability(subject, torch.ones(1, 2).double(), layers=layers)
        assert report.stable and report.blocks[0].verdict.startswith(verdict)
        assert report.blocks[0].step_bound is None and report.blocks[0].advised_step is None


def test_a_bound_of_imex_is_one_up_to_which_no_layer_grows():
    field = kn.SymmetricField(kn.DenseKernel(2), "identity")
    for h, still in ((1.9, False), (2.1, True)):
        subject = imex([[0.5, 0.0], [0.0, 0.5]], field, [[1.0, 0.0], [0.0, 0.5]], h)
        (row,) = kn.analysis.stability(subject, torch.ones(1, 2).double()).blocks
        assert row.step_bound == pytest.approx(2) and not row.unstable
        assert (row.amplification is None) == still  # beyond it the growth decides


@pytest.mark.parametrize("start", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("method", "field"),
    [
        (kn.Verlet(), kn.DoubleHamiltonianField(kn.DenseKernel(40), kn.DenseKernel(40))),
        (kn.Leapfrog(), kn.SymmetricField(kn.DenseKernel(80))),
        (kn.Verlet(), kn.HamiltonianField(kn.DenseKernel(40))),
    ],
)
def test_under_autocast_growth_is_that_without_it_but_for_rounding(method, field, start):
    """More than 64 numbers a sample; what comes before the block is rounded by autocast."""
    torch.manual_seed(0)
    block = kn.Block(method, field, 6, 3.0)
    before = torch.nn.Linear(80, 80) if start == "bfloat16" else torch.nn.Identity()
    network, x = torch.nn.Sequential(before, block), torch.randn(2, 80)
    (exact,) = kn.analysis.stability(network, x).blocks
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = kn.analysis.stability(network, x).blocks
    assert found.growth == pytest.approx(exact.growth, rel=0.05)
    assert found.smallest < 1.5 * exact.smallest < 0.9 * exact.growth
