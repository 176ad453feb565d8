"""Visits: how the parts of a network are called while it reads x."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from keelnet.analysis.calls import Call, answered
from keelnet.analysis.derivatives import plain_layers
from keelnet.analysis.snapshots import unhooked, untouched

Look = Callable[[Call], None]
COMPILED = "_orig_mod"  # the name under which torch.compile keeps what it was given


def visit(
    network: nn.Module,
    parts: Collection[nn.Module],
    x: Tensor,
    look: Look,
    keeping: bool = False,
    again: bool = False,
    recording: bool = False,
    replayed: bool = False,
) -> None:
    """Let the network read x; ``look`` is given the first call of each part (``again``: every one).

    ``recording``: it differentiates in its forward, so that it reads where autograd records. It looks while the network reads, so that what reached other parts need not be kept. Calls without a floating-point
    tensor are passed by. ``keeping``: each when it has answered, so that parts come before what holds them; the
    features may have been changed in place by then, so that only calls that answer in their shape are looked at.
    ``replayed``: the calls looked at are made again, and with them the part's own hooks on its input; so it is kept as it
    was before these.
    """
    wanted, looking = set(parts), False

    def stop(
        part: nn.Module, args: tuple[Any, ...], named: dict[str, Any], *answer: object
    ) -> None:
        nonlocal looking
        if looking or part not in wanted:
            return
        # A part may be called in inference mode by the network itself.
        with torch.inference_mode(False), torch.no_grad():
            call = Call.of(part, args, named, recording)
            if call is None:
                return
            if not again:
                wanted.remove(part)
            if keeping and not _keeps(call, answer[0]):
                return
            looking = True  # looking may call parts again
            try:
                look(call)
            finally:
                looking = False

    handles = [
        part.register_forward_hook(stop, with_kwargs=True)
        if keeping
        else part.register_forward_pre_hook(stop, prepend=replayed, with_kwargs=True)
        for part in parts
    ]
    try:
        with torch.set_grad_enabled(recording):
            network(x.clone())  # it may change its input in place
    finally:
        for handle in handles:
            handle.remove()


def _keeps(call: Call, answer: object) -> bool:
    value = answered(answer, call.y.shape)
    return value is not None and value.shape == call.y.shape


def written(network: nn.Module) -> nn.Module:
    """What torch.compile and nn.DataParallel were given: on several GPUs the latter reads with copies, whose calls nobody hears."""
    name = "module" if isinstance(network, nn.DataParallel) else COMPILED
    inner: nn.Module = getattr(network, name, network)
    return network if inner is network else written(inner)


def cleaned(name: str) -> str:
    """A dotted name without what torch.compile adds to it."""
    return ".".join(each for each in name.split(".") if each != COMPILED)


def named_parts(network: nn.Module) -> dict[str, nn.Module]:
    """Submodules by their cleaned names, a shared one by that of each of its places; of a compiled one what was compiled.

    Those of a DataParallel by their names in the module that it was given, and by its own.
    """
    return {
        cleaned(name): part
        for each in (network, written(network))
        for name, part in each.named_modules(remove_duplicate=False)
    }


@contextmanager
def measuring() -> Iterator[None]:
    """Torch as derivatives need it, whatever the caller set: no inference mode, layers and compiled parts as written."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(plain_layers())
        if "torch._dynamo" in sys.modules:  # large, and not needed where nothing was compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for every module inside, and afterwards each module's own mode, buffers and hooks again.

    By the flags alone: a module's own ``eval()`` may do what ``train()`` does not undo. Modules that are built meanwhile
    get back the mode in which modules are built (`require_repeatable` switches them).
    """
    modes = {module: module.training for module in network.modules()}
    with untouched(network), unhooked(network), _plain_recurrence(network):
        for module in modes:
            module.training = False
        try:
            yield
        finally:
            built = {module: True for module in network.modules() if module not in modes}
            for module, mode in (modes | built).items():
                module.training = mode


@contextmanager
def _plain_recurrence(network: nn.Module) -> Iterator[None]:
    """Recurrent layers without cuDNN, which takes no derivative in evaluation mode and never a second one."""
    before = torch.backends.cudnn.enabled
    recurrent = any(isinstance(part, nn.RNNBase) for part in network.modules())
    torch.backends.cudnn.enabled = before and not recurrent
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before
