"""Small problems that the laws of training run over."""

from __future__ import annotations

import torch

import keelnet as kn
from keelnet.data.samples import InMemory
from keelnet.learning.validation import scored


def rings(count=24, classes=2, dtype=torch.float64, seed=0):
    """Classes on circles of growing radius; every fourth sample is withheld."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    angle = 6.3 * torch.rand(count, generator=generator, dtype=torch.float64)
    radius = 0.5 + labels + 0.2 * torch.rand(count, generator=generator, dtype=torch.float64)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1).to(dtype)
    held = torch.arange(count) // classes % 4 == 3
    names = tuple(f"ring {number}" for number in range(classes))
    return InMemory((x[~held], labels[~held]), (x[held], labels[held]), names)


def network(name="hamiltonian", classes=2, depth=4, dtype=torch.float64, seed=0, **settings):
    """A small network whose controls differ from knot to knot."""
    shape = {"width": 4, "depth": depth, "final_time": 2.0, "gain": 0.5, "seed": seed, **settings}
    if name == "antisymmetric":
        shape.setdefault("damping", 0.3)
    net = getattr(kn.architectures, name)(2, classes, **shape).to(dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator, dtype=dtype))
    return net


def accuracy(logits, labels):
    return {"accuracy": float((logits.argmax(1) == labels).double().mean())}


def trained(trainer, net, objective, settings, samples=None, seed=0, **changes):
    """The steps of a trainer on these rings."""
    samples = samples or rings()
    validate = changes.pop("validate", None) or scored(samples, accuracy, 64)
    generator = torch.Generator().manual_seed(seed)
    return trainer(net, objective, samples, settings, validate, generator, **changes)


def state_of(net):
    return {name: value.clone() for name, value in net.state_dict().items()}
