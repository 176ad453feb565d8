"""A fresh process that analyses a network grows by less than twice what one forward pass makes it grow by."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peaks import peak

import keelnet as kn

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="Linux tells peaks of resident memory"
)

# Full widths of ResNet-18 and its first two levels, 112 × 112.
NETWORK = """
import json, sys, torch
from torch import nn
torch.manual_seed(0)
torch.set_num_threads(1)

class Basic(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        same = inputs == width and stride == 1
        self.downsample = nn.Identity() if same else nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x):
        return torch.relu(self.branch(x) + self.downsample(x))

network = nn.Sequential(
    nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), Basic(64, 64, 1), Basic(64, 64, 1), Basic(64, 128, 2), Basic(128, 128, 1),
    nn.Flatten()).eval()
x = torch.randn(1, 3, 112, 112)
"""
MEASURED = """
import keelnet as kn
from keelnet.experiments.resident import peak_since, status_of
peak_since()
before, modules = status_of("VmRSS"), set(sys.modules)
{call}
grown = peak_since() - before
heavy = ["matplotlib", "rich", "scipy.sparse.linalg", "sympy", "torch._dynamo", "torch._decomp.decompositions_for_jvp"]
print(json.dumps([grown, [name for name in heavy if name in set(sys.modules) - modules]]))
"""


def grown(call, network=NETWORK):
    """Bytes, and which large libraries were loaded."""
    done = subprocess.run(
        [sys.executable, "-c", network + MEASURED.format(call=call)],
        capture_output=True,
        text=True,
        check=True,
        # Pieces of 64 kB and more go back to the system at once. By glibc's own limits gaps in the heap
        # count, too, and the same diagnosis took 44 to 52 MB.
        env={"OMP_NUM_THREADS": "1", "PATH": "", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    return json.loads(done.stdout)


def test_the_diagnosis_of_a_residual_network():
    once, _ = grown("network(x)")
    found, loaded = grown("kn.analysis.diagnose(network, x, iterations=5)")
    assert loaded == []
    assert found < 2 * once


KEELNET = """
import json, sys, torch
import keelnet as kn
torch.manual_seed(0)
torch.set_num_threads(1)
network = kn.architectures.hamiltonian(2, 3, width=8, depth=4, dim=2).eval()
x = torch.randn(1, 2, 16, 16)
"""


def test_the_analysis_of_a_keelnet_network_loads_no_large_library():
    _, loaded = grown("kn.analysis.stability(network, x, iterations=3)", KEELNET)
    assert loaded == []


def test_that_a_library_is_loaded_would_be_seen():
    _, loaded = grown("kn.analysis.growth_figure", KEELNET)
    assert loaded == ["matplotlib"]


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        *[(name, 2) for name in ("residual", "hamiltonian", "double_hamiltonian", "parabolic", "second_order")],
        ("hamiltonian", 3),
    ],
)  # fmt: skip
def test_one_sample_takes_less_than_two_passes(name, dim):
    """Of passes that themselves keep few states, as the networks are built."""
    network = getattr(kn.architectures, name)(1, 2, width=8, depth=12, dim=dim).eval()
    x = torch.randn(1, 1, *(64, 64) if dim == 2 else (16, 16, 16))
    with kn.engine("reference"):
        once = peak(lambda: network(x))
    assert peak(lambda: kn.analysis.stability(network, x, iterations=2)) < 2 * once
