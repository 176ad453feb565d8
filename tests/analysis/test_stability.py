"""Stability reports agree with closed forms, and name the blocks."""

import math

import pytest
import torch

import keelnet as kn
from keelnet.analysis.derivatives import Jacobian, largest_growth


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
    growth = largest_growth(lambda x: (x @ matrix).tanh(), y, iterations=300)
    for sample, found in zip(y, growth, strict=True):
        jacobian = torch.func.jacrev(lambda x: (x @ matrix).tanh())(sample)
        torch.testing.assert_close(found, torch.linalg.matrix_norm(jacobian, 2), rtol=1e-6, atol=0)


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


@pytest.mark.parametrize("x", [torch.tensor([[math.nan, 0.0]]), torch.zeros(1, 2, dtype=int), 3.0])
def test_bad_inputs_are_refused(x):
    subject = block(kn.Euler(), kn.SingleField(kn.DenseKernel(2)), torch.eye(2))
    with pytest.raises(ValueError, match="x must be a tensor of finite"):
        kn.analysis.stability(subject, x)


def test_a_network_without_blocks_is_sent_to_diagnose():
    with pytest.raises(ValueError, match="diagnose"):
        kn.analysis.stability(torch.nn.Linear(2, 2), torch.zeros(1, 2))
