"""One run of the Q-tips study: a job in, its record kept when it is finished."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from qtips_networks import network, parameters
from torch import Tensor, nn
from torch.nn import functional

import keelnet as kn
from keelnet.data.qtips import Qtips, qtips
from keelnet.data.samples import Batch
from keelnet.learning.schedules import Cosine

Record = dict[str, Any]
# The share of the steps over which the rate rises; then it falls along a cosine.
WARMUP = 0.1


@dataclass(frozen=True)
class Job:
    """A network of a depth trained on rods of a length; ``step`` is h of the layers (1 for the UNet, unused)."""

    purpose: str
    network: str
    depth: int
    length: float
    seed: int
    rate: float
    step: float
    steps: int
    batch: int
    size: int
    rods: int

    @property
    def name(self) -> str:
        """Of its file; the rate and step of a run of the study are found in it."""
        tail = f"-{self.rate:g}-{self.step:g}" if self.purpose == "search" else ""
        return f"{self.purpose}-{self.network}-{self.depth}-{self.length:g}-{self.seed}{tail}"

    @property
    def samples(self) -> Qtips:
        """Another seed, other withheld images."""
        return qtips(self.seed, size=self.size, length=self.length, rods=self.rods)


def keep(path: Path, record: Record) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.new")
    temporary.write_text(json.dumps(record) + "\n")
    temporary.replace(path)


def rod_accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of rod pixels whose largest logit is their label's; the background is a class like others."""
    rod = labels > 0
    return float((logits.argmax(dim=1) == labels)[rod].double().mean())


def trained(job: Job) -> Record:
    """Train and judge: by the last iterate, on withheld images that chose nothing. Seconds are the processor's."""
    samples = job.samples
    net = network(job.network, job.depth, job.step, job.seed)
    begin, curve, diverged = time.process_time(), [], None
    for done, loss in _descended(net, samples, job):
        if not math.isfinite(loss):
            diverged = f"the loss became {loss} in step {done}"
            break
        if done % max(1, job.steps // 10) == 0:
            curve.append([done, round(loss, 4), round(_judged(net, samples, 64), 4)])
    seconds = round(time.process_time() - begin, 1)
    accuracy = None if diverged else _judged(net, samples, samples.withheld)
    return {
        "job": asdict(job),
        "parameters": parameters(net),
        "seconds": seconds,
        "diverged": diverged,
        "rod_accuracy": accuracy,
        "curve": curve,
    }


def _descended(net: nn.Module, samples: Qtips, job: Job) -> Iterator[tuple[int, float]]:
    """(steps done, loss) after each step of Adam."""
    optimiser = torch.optim.Adam(net.parameters(), lr=job.rate)
    batches = _endless(samples, job.batch, torch.Generator().manual_seed(job.seed))
    for done in range(job.steps):
        x, labels = next(batches)
        optimiser.param_groups[0]["lr"] = job.rate * _factor(done / job.steps)
        loss = functional.cross_entropy(net(_laid_out(x)), labels)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        yield done + 1, float(loss.detach())


def _endless(samples: Qtips, batch: int, generator: torch.Generator) -> Iterator[Batch]:
    """New images as long as they are asked for."""
    while True:
        yield from samples.batches(batch, generator)


def _factor(spent: float) -> float:
    """As Training.rate_factor."""
    return max(spent / WARMUP, 1e-3) if spent < WARMUP else Cosine().factor(spent, WARMUP)


def _judged(net: nn.Module, samples: Qtips, images: int) -> float:
    """Accuracy on the rod pixels of the first withheld images."""
    x, labels = (part[:images] for part in samples.validation)
    with torch.no_grad():
        logits = torch.cat([net(_laid_out(part)) for part in torch.split(x, 32)])
    return rod_accuracy(logits, labels)


def _laid_out(x: Tensor) -> Tensor:
    """Channels last, which plain torch's convolutions of few channels like best; the same for every network."""
    return x.to(memory_format=torch.channels_last)


def run(job: Job, path: Path) -> None:
    """Train on one thread and keep the record."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", kn.StabilityWarning)
    # All networks by the same plain operations: seconds then compare networks, not engines.
    with kn.engine("reference"):
        keep(path, trained(job))
