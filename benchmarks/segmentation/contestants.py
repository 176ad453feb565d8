"""Contestants: the networks that meet, each as its own documentation sets it up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

import keelnet as kn
from keelnet.learning.schedules import Steps

INPUTS, REGIONS = 4, 3
Role = Literal["ours", "control", "peer", "variant", "deep", "weighed"]
OF_OURS: tuple[Role, ...] = ("deep", "variant")  # trained last

# keelnet's own: width, depth (down) and rise (up) of each level, from the cases' own resolution down to an eighth of it.
OURS: dict[str, Any] = {
    "width": (8, 32, 64, 64),
    "depth": (0, 1, 3, 4),
    "rise": (1, 2, 0),
    "final_time": 2.0,
    "activation": "relu",
}
# What else was tried for it, a change or two at a time: the ablation.
TRIED: dict[str, tuple[str, dict[str, Any]]] = {
    "silu": ("silu", {"activation": "silu"}),
    "three-levels": ("three levels", {"width": (8, 32, 64), "depth": (0, 2, 4), "rise": (1, 2)}),
    "shorter": ("final time 1", {"final_time": 1.0}),
    "longer": ("final time 4", {"final_time": 4.0}),
    "deeper": ("deeper", {"depth": (0, 2, 4, 6), "rise": (2, 3, 0)}),
    "larger": ("wider and deeper", {"width": (8, 32, 64, 96), "depth": (0, 2, 3, 4), "rise": (1, 2, 1)}),
}  # fmt: skip
# And how it is trained: fields of `learning.Training`.
SCHEDULED: dict[str, tuple[str, dict[str, Any]]] = {
    "slow-start": ("warm-up 0.2", {"warmup": 0.2}),
    "steps": ("rate in steps", {"schedule": Steps()}),
    "averaged": ("averaged weights", {"average": 0.99}),
}
DEPTHS = (2, 8, 32)


def segmenter(seed: int, **settings: Any) -> nn.Module:
    """keelnet's."""
    return kn.architectures.segmenter(INPUTS, REGIONS, dim=3, seed=seed, **settings)


def layered(layers: int) -> dict[str, Any]:
    """OURS with so many layers in every stage that has any; 0: the same shell without a step."""
    return OURS | {
        name: tuple(layers if n else 0 for n in OURS[name]) for name in ("depth", "rise")
    }


def local(seed: int, channels: int) -> nn.Module:
    """3³ once, then point by point: it sees its next neighbours and no farther."""
    return nn.Sequential(
        nn.Conv3d(INPUTS, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(channels, channels, 1),
        nn.ReLU(),
        nn.Conv3d(channels, REGIONS, 1),
    )


def segresnet(seed: int, filters: int, blocks: tuple[int, ...] = (1, 2, 2, 4)) -> nn.Module:
    """MONAI's winner of BraTS 2018 without its autoencoder."""
    from monai.networks.nets import SegResNet

    return SegResNet(3, filters, INPUTS, REGIONS, blocks_down=blocks)


def unet(seed: int, units: int = 2, checkpointed: bool = False) -> nn.Module:
    """MONAI's residual U-Net, four levels; or its variant that computes activations again."""
    from monai.networks.nets import unet

    kind = unet.CheckpointUNet if checkpointed else unet.UNet
    return kind(3, INPUTS, REGIONS, (16, 32, 64, 128), (2, 2, 2), num_res_units=units)


def iunet(seed: int, channels: int = 8, layers: tuple[int, ...] = (2, 2, 2, 2)) -> nn.Module:
    """An invertible U-Net between two convolutions, as its documentation embeds one."""
    from iunets import iUNet

    return nn.Sequential(
        nn.Conv3d(INPUTS, channels, 3, padding=1),
        iUNet(channels, layers, dim=3, verbose=0),
        nn.Conv3d(channels, REGIONS, 1),
    )


@dataclass(frozen=True)
class Contestant:
    """A network by name: ``build`` of a seed and ``design``.

    role: ours; control, a network without what keelnet claims to need; peer; variant, of ours; deep, ours with
    other depths; weighed, whose memory is taken and which is not trained. training: fields of `learning.Training` that a
    variant has its own of. rate_of: whose learning rate it takes. family and layers: the line and place that it has
    where memory is drawn against depth.
    """

    name: str
    title: str
    build: Callable[..., nn.Module]
    role: Role
    design: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    rate_of: str | None = None
    family: str = ""
    layers: int = 0
    environment: str = ""

    def network(self, seed: int, scale: float, shift: float) -> nn.Module:
        """logits = scale · network + shift; the first parameters are those of the seed."""
        torch.manual_seed(seed)
        network = self.build(seed, **self.design)
        return Scaled(network, scale, shift).to(memory_format=torch.channels_last_3d)

    @property
    def described(self) -> dict[str, Any]:
        """As records keep it: one of another design is not of this contestant."""
        written = {"build": self.build.__name__, **self.design}
        written |= {"training": self.training} if self.training else {}
        result: dict[str, Any] = json.loads(json.dumps(written, default=repr))
        return result


class Scaled(nn.Module):
    """x ↦ scale · network(x) + shift, in channels-last layout."""

    def __init__(self, network: nn.Module, scale: float, shift: float) -> None:
        super().__init__()
        self.network, self.scale, self.shift = network, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x.contiguous(memory_format=torch.channels_last_3d))
        return self.scale * y + self.shift


def _deep(layers: int) -> list[Contestant]:
    """Ours and the peers with so many layers a stage."""
    four, tail = (layers,) * 4, f"{layers} a stage"
    weighed: Role = "weighed"
    rows: list[tuple[str, str, Callable[..., nn.Module], dict[str, Any], str]] = [
        ("segresnet8", "SegResNet 8", segresnet, {"filters": 8, "blocks": four}, ""),
        ("unet", "UNet", unet, {"units": layers}, ""),
        ("unet-checkpointed", "UNet, checkpointed", unet, {"units": layers, "checkpointed": True}, ""),
        ("iunet", "iUNet", iunet, {"layers": four}, "iunets"),
    ]  # fmt: skip
    ours = Contestant(
        f"keelnet-{layers}",
        f"keelnet, {tail}",
        segmenter,
        "deep",
        layered(layers),
        rate_of="keelnet",
        family="keelnet",
        layers=layers,
    )
    return [ours] + [
        Contestant(
            f"{name}-{layers}",
            f"{title}, {tail}",
            build,
            weighed,
            design,
            family=title,
            layers=layers,
            environment=environment,
        )
        for name, title, build, design, environment in rows
    ]


# One more line, here, in TRIED or in SCHEDULED, is one more row of the table.
CONTESTANTS = {
    each.name: each
    for each in (
        Contestant("keelnet", "keelnet", segmenter, "ours", OURS),
        Contestant("zero", "no steps, same shell", segmenter, "control", layered(0)),
        Contestant("local", "local, 3³ once", local, "control", {"channels": 48}),
        Contestant("segresnet8", "SegResNet 8", segresnet, "peer", {"filters": 8}),
        Contestant("segresnet16", "SegResNet 16", segresnet, "peer", {"filters": 16}),
        Contestant("unet", "UNet", unet, "peer"),
        Contestant("unet-checkpointed", "UNet, checkpointed", unet, "peer", {"checkpointed": True}, rate_of="unet"),
        Contestant("iunet", "iUNet", iunet, "peer", environment="iunets"),
        *(each for layers in DEPTHS for each in _deep(layers)),
        *(
            Contestant(name, f"keelnet, {title}", segmenter, "variant", OURS | change, rate_of="keelnet")
            for name, (title, change) in TRIED.items()
        ),
        *(
            Contestant(name, f"keelnet, {title}", segmenter, "variant", OURS, training, rate_of="keelnet")
            for name, (title, training) in SCHEDULED.items()
        ),
    )
}  # fmt: skip
