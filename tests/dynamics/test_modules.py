"""Laws of module fields: a user's branch, moved as any field is, trained where it lives."""

import copy
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from problems import METHODS, branch, randn
from torch import nn
from torch.utils.checkpoint import CheckpointError, checkpoint

import keelnet as kn

ONE_PART = ["euler", "rk4", "leapfrog", "leapfrog half", "midpoint"]
VERLET = ["verlet", "verlet half"]
BRANCHES = [branch(3, seed) for seed in range(4)]
H = 0.1


def moved(method: str, field, y0, controls=None, **settings):
    return kn.propagate(METHODS[method].integrator, field, y0, controls or {}, H, **settings)


def as_single_field(branches: list) -> dict:
    return {
        "weight": torch.stack([each[0].weight.T for each in branches]),
        "bias": torch.stack([each[0].bias for each in branches]),
    }


@pytest.mark.parametrize("method", ONE_PART)
def test_a_linear_layer_and_tanh_are_the_single_field(method):
    y0 = randn(2, 3)
    controls = kn.ModuleField.stacked(BRANCHES)
    assert controls.keys() == {"0.weight", "0.bias"}
    expected = moved(method, kn.SingleField(kn.DenseKernel(3)), y0, as_single_field(BRANCHES))
    torch.testing.assert_close(moved(method, kn.ModuleField(branch(3)), y0, controls), expected)


def verlet_by_hand(y, z, start: str):
    """z ← z − h branch(y); y ← y + h branch(z)."""
    for number, each in enumerate(BRANCHES):
        kick = H / 2 if start == "half" and number == 0 else H
        z = z - kick * each(y)
        y = y + H * each(z)
    return y, z


@pytest.mark.parametrize("method", VERLET)
@pytest.mark.parametrize("channels", [None, 3])
def test_verlet_splits_features_in_two_halves(method, channels):
    y0 = randn(2, 6)
    start = METHODS[method].integrator.start
    expected = torch.cat(verlet_by_hand(*y0.chunk(2, 1), start), 1)
    controls = kn.ModuleField.stacked(BRANCHES)
    got = moved(method, kn.ModuleField(branch(3), channels), y0, controls)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("method", VERLET)
def test_verlet_starts_z_at_zero_for_features_of_the_named_channels(method):
    y0 = randn(2, 3)
    start = METHODS[method].integrator.start
    expected, _ = verlet_by_hand(y0, torch.zeros_like(y0), start)
    got = moved(method, kn.ModuleField(branch(3), 3), y0, kn.ModuleField.stacked(BRANCHES))
    torch.testing.assert_close(got, expected)


def test_channels_may_lie_on_another_axis():
    y0 = randn(2, 5, 6)
    field = kn.ModuleField(branch(3), axis=2)
    whole = moved("verlet", field, y0, kn.ModuleField.stacked(BRANCHES))
    rows = moved(
        "verlet", kn.ModuleField(branch(3)), y0.flatten(0, 1), kn.ModuleField.stacked(BRANCHES)
    )
    torch.testing.assert_close(whole.flatten(0, 1), rows)


@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])
def test_gradients_of_stacked_controls_reach_the_modules(strategy):
    y0, given = randn(2, 6), [branch(3, seed) for seed in range(4)]
    y, z = verlet_by_hand(*y0.chunk(2, 1), "full")
    leaves = [value for each in BRANCHES for value in each.parameters()]
    expected = torch.autograd.grad((y.square() + z.square()).sum(), leaves)
    controls = kn.ModuleField.stacked(given)
    moved(
        "verlet", kn.ModuleField(branch(3)), y0, controls, strategy=strategy
    ).square().sum().backward()
    found = [value.grad for each in given for value in each.parameters()]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])
def test_own_parameters_are_shared_by_every_layer(strategy):
    y0, own, copies = randn(2, 6), branch(3), [branch(3) for _ in range(4)]
    shared = moved("verlet", kn.ModuleField(own), y0, depth=4, strategy=strategy)
    apart = moved("verlet", kn.ModuleField(own), y0, kn.ModuleField.stacked(copies))
    torch.testing.assert_close(shared, apart)
    shared.square().sum().backward()
    apart.square().sum().backward()
    for name, value in own.named_parameters():
        parts = [copy.get_parameter(name).grad for copy in copies]
        torch.testing.assert_close(value.grad, torch.stack(parts).sum(0))


def test_controls_replace_some_parameters_and_the_module_keeps_the_rest():
    y0, own = randn(2, 3), branch(3)
    weights = kn.ModuleField.stacked(BRANCHES)["0.weight"]
    got = moved("euler", kn.ModuleField(own), y0, {"0.weight": weights})
    y = y0
    for weight in weights:
        y = y + H * torch.tanh(y @ weight.T + own[0].bias)
    torch.testing.assert_close(got, y)


def test_without_controls_the_depth_must_be_named():
    with pytest.raises(ValueError, match="there are no controls to count layers by; pass depth"):
        moved("euler", kn.ModuleField(branch(3)), randn(2, 3))


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), norm, nn.Tanh()).double()


REMEMBERING = [lambda: nn.BatchNorm1d(2), lambda: nn.InstanceNorm1d(2, track_running_stats=True)]


@pytest.mark.parametrize("strategy", [kn.checkpointed, kn.reversible])
@pytest.mark.parametrize("norm", REMEMBERING, ids=["batch norm", "instance norm"])
def test_norms_with_a_memory_are_refused_in_training_where_layers_run_twice(strategy, norm):
    field, y0 = kn.ModuleField(normed(norm())), randn(2, 4, 5)
    with pytest.raises(ValueError, match=r"at 1 would update its statistics twice.*kn\.store_all"):
        moved("verlet", field, y0, depth=2, strategy=strategy)
    assert not field.module[1].running_mean.any()
    moved("verlet", field, y0, depth=2)
    assert field.module[1].running_mean.any()
    field.module.eval()
    expected = moved("verlet", field, y0, depth=2)
    torch.testing.assert_close(moved("verlet", field, y0, depth=2, strategy=strategy), expected)


@pytest.mark.parametrize("strategy", [kn.checkpointed, kn.reversible])
def test_norms_without_a_memory_are_welcome(strategy):
    field, y0 = kn.ModuleField(normed(nn.InstanceNorm1d(2))), randn(2, 4, 5)
    expected = moved("verlet", field, y0, depth=2)
    torch.testing.assert_close(moved("verlet", field, y0, depth=2, strategy=strategy), expected)


@pytest.mark.parametrize("strategy", [kn.checkpointed, kn.reversible])
def test_a_batch_norm_that_tracks_no_statistics_is_welcome_in_training(strategy):
    field = kn.ModuleField(normed(nn.BatchNorm1d(2, track_running_stats=False)))
    expected = moved("verlet", field, randn(2, 4, 5), depth=2)
    found = moved("verlet", field, randn(2, 4, 5), depth=2, strategy=strategy)
    torch.testing.assert_close(found, expected)


class Precise(nn.Module):
    """A layer in half precision behind a norm that stays in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(3), nn.Linear(3, 3).bfloat16()

    def forward(self, y):
        return self.linear(self.norm(y.float()).to(y.dtype))


@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])
def test_a_branch_of_two_precisions_is_welcome(strategy):
    block = kn.Block(kn.Verlet(), kn.ModuleField(Precise()), 3, strategy=strategy)
    y = torch.randn(2, 3).bfloat16().requires_grad_()
    value = block(y)
    value.sum().backward()
    assert value.dtype == y.grad.dtype == torch.bfloat16
    assert {each.grad.dtype for each in block.parameters()} == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_features_of_a_precision_that_no_part_of_the_branch_has_are_refused(dtype):
    block = kn.Block(kn.Verlet(), kn.ModuleField(nn.Linear(3, 3)), 3)
    with pytest.raises(ValueError, match="weight has dtype torch.float32, y0 has"):
        block(torch.randn(2, 3).to(dtype))


def dropping(p: float) -> kn.ModuleField:
    return kn.ModuleField(nn.Sequential(*branch(3), nn.Dropout(p)))


def test_dropout_is_refused_under_reversible_while_it_drops():
    y0 = randn(2, 6)
    with pytest.raises(ValueError, match="Dropout at 2 gives another value each time"):
        moved("verlet", dropping(0.5), y0, depth=2, strategy=kn.reversible)
    off, still = dropping(0.5), dropping(0.0)
    off.module.eval()
    for field in (off, still):
        expected = moved("verlet", kn.ModuleField(branch(3)), y0, depth=2)
        torch.testing.assert_close(
            moved("verlet", field, y0, depth=2, strategy=kn.reversible), expected
        )


def test_checkpointing_draws_the_same_dropout_again():
    gradients = []
    for strategy in (kn.store_all, kn.checkpointed):
        torch.manual_seed(0)
        y0 = randn(2, 6).requires_grad_()
        moved("verlet", dropping(0.5), y0, depth=6, strategy=strategy).square().sum().backward()
        gradients.append(y0.grad)
    torch.testing.assert_close(*gradients)


class Rectified(nn.Module):
    """A branch whose first act is on its own input."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.first = nn.ReLU(inplace=inplace)

    def forward(self, x):
        return 2 * self.first(x)


@pytest.mark.parametrize("method", ["euler", "verlet"])
@pytest.mark.parametrize("grad", [False, True])
def test_a_branch_that_changes_its_input_is_refused(method, grad):
    with (
        torch.set_grad_enabled(grad),
        pytest.raises(ValueError, match="Rectified changes its input"),
    ):
        moved(method, kn.ModuleField(Rectified(True)), randn(2, 4), depth=2)
    moved(method, kn.ModuleField(Rectified(False)), randn(2, 4), depth=2)


def test_a_branch_may_work_in_place_on_what_is_its_own():
    inside = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 3)).double()
    y0 = randn(2, 6).requires_grad_()
    gradients = [
        torch.autograd.grad(
            moved("verlet", kn.ModuleField(inside), y0, depth=4, strategy=s).sum(), y0
        )[0]
        for s in (kn.store_all, kn.reversible)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])
def test_a_branch_without_any_derivative_is_moved_too(strategy):
    class Wind(nn.Module):
        def forward(self, x):
            return torch.ones_like(x)

    y0 = randn(2, 4).requires_grad_()
    y = moved("verlet", kn.ModuleField(Wind()), y0, depth=3, strategy=strategy)
    sign = torch.tensor([1.0, 1, -1, -1]).double()
    torch.testing.assert_close(y, y0 + 3 * H * sign)
    (gradient,) = torch.autograd.grad(y.sum(), y0)
    assert torch.equal(gradient, torch.ones_like(y0))


def test_branches_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"Linear turned \(2, 3\) into \(2, 4\)"):
        moved("euler", kn.ModuleField(nn.Linear(3, 4).double()), randn(2, 3), depth=1)
    with pytest.raises(ValueError, match=r"GRU turned \(2, 3\) into tuple"):
        moved("euler", kn.ModuleField(nn.GRU(3, 3).double()), randn(2, 3), depth=1)


@pytest.mark.parametrize(
    ("method", "channels", "shape", "message"),
    [
        ("euler", 3, (2, 4), r"needs 3 channels on axis 1 of the state, got \(2, 4\)"),
        ("euler", None, (3,), r"needs its channels on axis 1 of the state, got \(3,\)"),
        ("verlet", 3, (2, 4), r"needs 3 or 6 channels on axis 1 of the state, got \(2, 4\)"),
        ("verlet", None, (2, 5), r"needs 3 or 6 channels on axis 1"),
        ("verlet", None, (4,), r"on axis 1 of the state, got \(4,\)"),
    ],
)
def test_states_of_another_shape_are_refused(method, channels, shape, message):
    with pytest.raises(ValueError, match=message):
        moved(method, kn.ModuleField(branch(3), channels), randn(*shape), depth=1)


@pytest.mark.usefixtures("as_a_user")
def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match=r"needs an nn\.Module, got <built-in method tanh"):
        kn.ModuleField(torch.tanh)
    with pytest.raises(ValueError, match="at least one module"):
        kn.ModuleField.stacked([])
    with pytest.raises(ValueError, match="parameters with the same names and shapes"):
        kn.ModuleField.stacked([nn.Linear(3, 3), nn.Linear(3, 3, bias=False)])


@pytest.mark.parametrize("start", ["full", "half"])
@pytest.mark.parametrize(
    ("branch", "space"),
    [
        (nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 1)), (5, 6)),
        (nn.Sequential(nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1)), (3, 3)),
        (nn.Sequential(nn.Tanh(), nn.Linear(4, 4)), ()),
        (nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)), ()),
    ],
)
def test_verlet_reads_the_channels_off_the_branch(branch, space, start):
    field, y0 = kn.ModuleField(branch.double()), randn(2, 4, *space)
    moved_y = kn.propagate(kn.Verlet(start), field, y0, {}, 0.1, depth=3)
    joined = torch.cat([y0, torch.zeros_like(y0)], dim=1)
    moved_both = kn.propagate(kn.Verlet(start), field, joined, {}, 0.1, depth=3)
    assert moved_y.shape == y0.shape and moved_both.shape == joined.shape
    torch.testing.assert_close(moved_y, moved_both[:, :4])
    told = kn.ModuleField(branch, channels=4)
    torch.testing.assert_close(kn.propagate(kn.Verlet(start), told, y0, {}, 0.1, depth=3), moved_y)


class Slow(nn.Linear):
    """A layer that lets other threads go first."""

    def forward(self, x):
        time.sleep(1e-3)
        return super().forward(x)


def test_threads_take_turns_at_a_module():
    field = kn.ModuleField(Slow(3, 3).double())
    cases = [(randn(2, 3, seed=seed), {"weight": randn(5, 3, 3, seed=seed)}) for seed in range(12)]

    def run(case):
        with torch.no_grad():
            return kn.propagate(kn.Euler(), field, *case, H)

    expected = [run(case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, cases))
    assert all(map(torch.equal, found, expected))
    assert all(isinstance(value, nn.Parameter) for value in field.module.parameters())


def test_threads_share_a_block_of_a_module():
    block = kn.Block(kn.Euler(), kn.ModuleField(Slow(3, 3).double()), 5)
    cases = [randn(2, 3, seed=seed) for seed in range(12)]
    expected = list(map(block, cases))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(block, cases))
    assert all(map(torch.equal, found, expected))


class Remembering(nn.Module):
    """A branch that looks at its own parameters and keeps tensors of the graph."""

    def __init__(self):
        super().__init__()
        self.inner, self.kept = nn.Linear(3, 3), []
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, y):
        y = y.to(next(self.parameters()).dtype)
        self.last = torch.tanh(self.inner(y))
        self.kept, self.mean = [self.last], self.last.mean(0)
        return self.last


def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(nn.Linear(3, 3))


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("make", [Remembering, old_weight_norm])
def test_a_branch_that_keeps_tensors_of_the_graph_is_copied_and_computes_the_same(make, ran):
    branch, y = make(), torch.randn(2, 3)
    if ran:
        branch(y)
    block = kn.Block(kn.Euler(), kn.ModuleField(branch), 1)
    torch.testing.assert_close(block(y), y + branch(y))
    block(y).sum().backward()
    assert all(bool(value.grad.any()) for value in block.parameters())
    assert all(name.startswith("control.") for name, _ in block.named_parameters())
    assert block.refined()(y).shape == y.shape
    assert block.state_dict().keys() == block.refined().state_dict().keys()


def test_a_branch_finds_its_parameters_and_what_is_lent_to_it_is_taken_back():
    class Counting(nn.Linear):
        def forward(self, y):
            found.append({name: value.shape for name, value in self.named_parameters()})
            if len(found) > 2:
                raise RuntimeError("enough")
            return super().forward(y)

    found = []
    block = kn.Block(kn.Euler(), kn.ModuleField(Counting(3, 3)), 2)
    block(torch.randn(2, 3))
    with pytest.raises(RuntimeError, match="enough"):
        block(torch.randn(2, 3))
    assert found == [{"weight": (3, 3), "bias": (3,)}] * 3
    assert dict(block.module.named_parameters()) == {}
    assert dict(block.module.named_buffers()).keys() == {"weight", "bias"}


def test_a_branch_that_takes_the_place_of_one_that_ran_finds_its_parameters():
    class Counting(nn.Linear):
        def forward(self, y):
            found.append([*dict(self.named_parameters())])
            return super().forward(y)

    found = []
    block, y = kn.Block(kn.Euler(), kn.ModuleField(Counting(3, 3)), 1), torch.randn(2, 3)
    expected, field = block(y), block.field
    block.module = copy.deepcopy(block.module)
    assert torch.equal(block(y), expected)
    assert found == [["weight", "bias"]] * 2
    assert block.field is not field and field.module is not block.module


def test_a_module_that_holds_what_cannot_be_copied_is_refused_by_a_block():
    branch = nn.Linear(3, 3)
    branch.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"a copy of Linear was wanted.*lock.*__deepcopy__"):
        kn.Block(kn.Euler(), kn.ModuleField(branch), 2)


@pytest.mark.parametrize("first", [nn.Linear(4, 4), nn.LayerNorm(4)])
def test_a_module_that_reads_the_last_axis_is_not_split_on_another(first):
    y0 = torch.randn(2, 8, 4)
    with pytest.raises(ValueError, match=f"{type(first).__name__}.*last axis of.*pass axis=2"):
        moved("verlet", kn.ModuleField(first), y0, depth=1)
    assert moved("verlet", kn.ModuleField(first, channels=4), y0, depth=1).shape == y0.shape
    assert moved("verlet", kn.ModuleField(first, axis=-1), y0, depth=1).shape == y0.shape


class ImageNorm(nn.LayerNorm):
    """torchvision's norm of channels that lie on axis 1."""

    def forward(self, y):
        return super().forward(y.movedim(1, -1)).movedim(-1, 1)


class Moved(nn.Module):
    """A linear layer over channels on axis 1."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, y):
        return self.inner(y.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize(
    ("make", "size"), [(lambda: ImageNorm(8), 16), (lambda: ImageNorm(8), 8), (Moved, 16)]
)
def test_a_module_that_moves_its_channels_to_the_last_axis_itself_is_welcome(make, size):
    blocks, y = [make(), make()], torch.randn(1, 8, size, size)
    told = kn.stabilised(blocks, channels=8)
    assert torch.equal(kn.stabilised(blocks)(y), told(y))


def test_controls_of_modules_that_passed_the_look_are_stacked_without_it():
    modules = [nn.Conv1d(3, 3, 3, dilation=each) for each in (1, 2)]
    with pytest.raises(ValueError, match="dilation"):
        kn.ModuleField.stacked(modules)
    assert kn.ModuleField.stacked(modules, checked=False)["weight"].shape == (2, 3, 3, 3)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_branch_that_checkpoints_itself_is_refused(reentrant):
    """It would be evaluated again with other numbers than the layer's."""

    class Saving(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

        def forward(self, x):
            return checkpoint(self.f, x, use_reentrant=reentrant)

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), kn.Block(kn.Euler(), kn.ModuleField(Saving()), 3))
    with pytest.raises((ValueError, CheckpointError), match=r"checkpoint|[Dd]ifferent"):
        net(torch.randn(2, 4)).sum().backward()


class Saving(nn.Module):
    def __init__(self, saves):
        super().__init__()
        self.f, self.saves = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), saves

    def forward(self, x):
        return checkpoint(self.f, x, use_reentrant=True) if self.saves(x) else self.f(x)


def test_a_branch_that_checkpoints_itself_at_times_is_refused_when_it_does():
    y = torch.randn(2, 4)
    by_input = kn.Block(kn.Euler(), kn.ModuleField(Saving(lambda x: x.requires_grad)), 3)
    with pytest.raises(ValueError, match="Saving checkpoints itself"):  # in its second layer
        by_input(y)
    later = kn.Block(kn.Euler(), kn.ModuleField(Saving(lambda x: False)), 3)
    later(y).sum().backward()
    later.module.saves = lambda x: True
    with pytest.raises(ValueError, match="Saving checkpoints itself"):
        later(y.requires_grad_())


def test_controls_and_features_that_were_checkpointed_are_welcome():
    given = [randn(3, 4, 4).requires_grad_(), randn(2, 4).requires_grad_()]
    found = []
    for around in (lambda f, x: f(x), lambda f, x: checkpoint(f, x, use_reentrant=True)):
        weight, y = (around(torch.tanh, each) for each in given)
        field = kn.ModuleField(nn.Linear(4, 4, bias=False).double())
        value = kn.propagate(kn.Euler(), field, y, {"weight": weight}, H)
        value.square().sum().backward()
        found.append([each.grad for each in given])
        for each in given:
            each.grad = None
    torch.testing.assert_close(*found)


def test_a_checkpoint_before_the_block_is_welcome_in_whichever_thread_it_goes_back():
    """Each thread counts its nodes by itself, from 0."""
    x = randn(2, 4).requires_grad_()
    for _ in range(1000):
        x * 2
    y = checkpoint(nn.Linear(4, 4).double(), x, use_reentrant=True)
    net = kn.Block(kn.Euler(), kn.ModuleField(nn.Linear(4, 4)), 4, strategy=kn.checkpointed)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(net.double()(y).sum().backward).result()
    assert x.grad.any()


def test_an_attribute_that_is_called_hooks_is_copied_as_any_other():
    branch = nn.Linear(4, 4)
    branch.own_hooks, branch.n_hooks = [torch.tanh], 0
    assert kn.Block(kn.Euler(), kn.ModuleField(branch), 2).module.own_hooks == [torch.tanh]


def test_the_places_of_templates_are_not_looked_up_in_every_layer(monkeypatch):
    calls, look = [], nn.Module.get_submodule
    monkeypatch.setattr(nn.Module, "get_submodule", lambda *given: calls.append(given) or look(*given))  # fmt: skip
    counts = []
    for depth in (3, 6):
        block = kn.Block(kn.Euler(), kn.ModuleField(nn.Sequential(nn.Linear(4, 4), nn.Tanh())), depth)  # fmt: skip
        block(torch.randn(2, 4))
        calls.clear()
        block(torch.randn(2, 4))
        counts.append(len(calls))
    assert counts[0] == counts[1]


def test_a_recorder_that_hooks_a_branch_goes_on_recording():
    class Recorder:
        def __init__(self):
            self.seen = []

        def keep(self, module, inputs, output):
            self.seen.append(output)

    recorder, branch = Recorder(), nn.Linear(4, 4)
    branch.register_forward_hook(recorder.keep)
    kn.Block(kn.Euler(), kn.ModuleField(branch), 2)(torch.randn(2, 4))
    assert len(recorder.seen) == 2
