"""Conditions: what a network and its input must be, for a derivative to exist and to be found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as trees

from keelnet.analysis.calls import REFUSALS

FLOATS = ("FloatFunctional", "FXFloatFunctional")  # torch keeps these among its quantised modules
ALIKE = 1e-3  # of the largest number: sums in another order differ by less, draws by more


def require_finite(x: Tensor) -> None:
    """Raise ValueError unless x is a tensor of finite floating-point numbers."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not bool(x.isfinite().all()):
        raise ValueError("x must be a tensor of finite floating-point numbers, one sample a row")


def require_readable(network: nn.Module, x: Tensor) -> None:
    """Raise ValueError for an x that the network cannot read: of another device, not finite, of no sample.

    Whole numbers are taken: a network may begin with an embedding.
    """
    if not isinstance(network, nn.Module):
        raise ValueError(f"an nn.Module was wanted, got {type(network).__name__}")
    require_unscripted("a scripted module", network)
    if not isinstance(x, Tensor):
        raise ValueError(
            f"x must be a tensor of finite numbers, one sample a row; got {type(x).__name__}. For a network that reads"
            " several tensors, give a module of your own whose forward takes one and passes it on"
        )
    homes = {own.device for own in chain(network.parameters(), network.buffers())}
    if homes and x.device not in homes:
        home = str(next(iter(homes)))
        raise ValueError(f"x is on {x.device}, but the network on {home}; use x.to({home!r})")
    if x.is_complex() or x.is_floating_point():
        require_finite(x)
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(
            "x must hold at least one sample, (samples, channels, …) or (samples, tokens);"
            f" got {tuple(x.shape)}"
        )


def recorded(network: nn.Module, x: Tensor) -> Tensor:
    """x as autograd can record it, a copy if it was made in inference mode.

    Raises ValueError where the network's own numbers were, since they may be too large to copy.
    """
    for name, own in chain(network.named_parameters(), network.named_buffers()):
        if not is_lazy(own) and own.is_inference():
            raise ValueError(
                f"{name} was made under torch.inference_mode(), so autograd cannot see what it does; make the network"
                " outside of it"
            )
    return x.clone() if x.is_inference() else x


def is_quantised(part: nn.Module) -> bool:
    """Whether it is one of torch's modules of whole-number weights, which autograd passes by."""
    kind = type(part)
    hiding = kind.__module__.startswith("torch.") and ".quantized." in kind.__module__
    return hiding and kind.__name__ not in FLOATS


def is_scripted(part: nn.Module) -> bool:
    """Whether it was made by torch.jit, so that it takes no hooks."""
    return isinstance(part, torch.jit.ScriptModule)


def require_unscripted(name: str, part: nn.Module) -> None:
    """Raise ValueError for a scripted part."""
    if is_scripted(part):
        raise ValueError(f"{name} cannot be looked into; give the nn.Module that it was made of")


def require_unquantised(parts: Iterable[tuple[str, nn.Module]]) -> None:
    """Raise ValueError for quantised parts."""
    for name, part in parts:
        if is_quantised(part):
            raise ValueError(
                f"{name} is a quantised {type(part).__name__}, which has no derivative; measure the network that it was"
                " made of"
            )


def require_repeatable(network: nn.Module, x: Tensor) -> bool:
    """Raise ValueError where a network, in evaluation mode, cannot read x or gives another value the second time.

    Parts that its first forward builds are put in evaluation mode as well. Returns whether it reads only where autograd
    records, as one does that differentiates in its forward.
    """
    _require_no_batch_statistics(network)
    recording = False
    try:
        first = _read(network, x[:1], recording)
    except ValueError as refusal:
        try:
            first, recording = _read(network, x[:1], True), True
        except ValueError:
            raise refusal from refusal.__cause__
    built = [part for part in network.modules() if part.training]
    if built:
        for part in built:
            part.training = False
        first = _read(network, x[:1], recording)
    again = _read(network, x[:1], recording)
    if not all(_alike(a, b) for a, b in zip(_tensors(first), _tensors(again), strict=True)):
        raise ValueError(
            f"{type(network).__name__} gives another value the second time: it draws random numbers in evaluation"
            " mode too (functional dropout?) or keeps a state, so it has no derivative to measure; turn that off, for"
            " example with dropout(x, training=self.training)"
        )
    return recording


def not_finite(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Parameters and statistics that hold no numbers: (dotted name, in words).

    An infinite buffer may be meant, such as a mask of attention; nan is not.
    """
    statistics = {
        id(own)
        for part in module.modules()
        if isinstance(part, _NormBase)
        for own in part.buffers()
    }
    for name, value in chain(module.named_parameters(), module.named_buffers()):
        if is_lazy(value) or not value.is_floating_point() or value.is_meta:
            continue
        may_be_infinite = not isinstance(value, nn.Parameter) and id(value) not in statistics
        bad = value.isnan() if may_be_infinite else ~value.isfinite()
        if bool(bad.any()):
            word = "nan" if bool(value.isnan().any()) else "inf"
            name = f"{prefix}.{name}" if prefix else name
            yield name, f"{name} holds {word} ({int(bad.sum())} of {value.numel()} numbers)"


def require_apart(name: str, whole: Tensor, alone: Tensor, single: bool = False) -> None:
    """Raise ValueError where the first sample's value depends on the others, or on calls before: ``alone`` came later.

    ``single``: whether x itself was of one sample.
    """
    if whole.shape[1:] == alone.shape[1:] and _alike(whole[:1], alone):
        return
    if len(whole) == 1:
        raise ValueError(
            f"block {name} gives another value when it is called again; if it keeps a state, such as a cache of keys"
            " (use_cache), switch that off"
        )
    other_way = "" if single else "; or give x of one sample"
    raise ValueError(
        f"block {name} does not treat the samples of x apart: the first alone gets another value than among"
        f" {len(whole)}. Samples go along axis 0 (attention: batch_first=True){other_way}"
    )


def _read(network: nn.Module, x: Tensor, recording: bool) -> object:
    try:
        with torch.set_grad_enabled(recording):
            return network(x.clone())  # it may change its input in place
    except ValueError:  # says itself what was wanted, as of a state that is not finite
        raise
    except REFUSALS as error:
        own = {each.dtype for each in network.parameters() if each.is_floating_point()}
        other = x.is_floating_point() and own and x.dtype not in own
        hint = (
            f"; the network is of {next(iter(own))}: use x.to({next(iter(own))})" if other else ""
        )
        raise ValueError(
            f"{type(network).__name__} cannot read x of shape {tuple(x.shape)}, {x.dtype}: {first_line(error)}{hint}"
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    said = repr(error) if isinstance(error, KeyError) else str(error)  # else the bare key
    return next(iter(said.strip().splitlines()), type(error).__name__)


def _require_no_batch_statistics(network: nn.Module) -> None:
    for name, part in network.named_modules():
        if isinstance(part, _BatchNorm) and part.running_mean is None:
            raise ValueError(
                f"{type(part).__name__} at {name or 'the top'} takes its statistics from the batch in evaluation mode too, so"
                " that no sample has a derivative of its own; use track_running_stats=True"
            )


def _tensors(value: object) -> list[Tensor]:
    return [each.detach() for each in trees.tree_leaves(value) if isinstance(each, Tensor)]


def _alike(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    if not first.is_floating_point():
        return torch.equal(first, second)
    finite = first.isfinite()
    if not torch.equal(finite, second.isfinite()):
        return False
    a, b = first[finite].double(), second[finite].double()
    if a.numel() == 0:
        return True
    loose = max(ALIKE, 8 * torch.finfo(first.dtype).eps)
    return float((a - b).abs().max()) <= loose * float(a.abs().max())
