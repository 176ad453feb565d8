"""Exports of a scene: its numbers, the Python that gives the same ones, and the picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from keelnet import __version__
from keelnet.analysis.tables import plain
from keelnet.app.drawing import png, svg
from keelnet.app.message import Picture
from keelnet.app.scene import TWO_PARTS, Scene

_FIELDS = {
    "plain": "kn.SingleField({kernel}, {activation!r})",
    "antisymmetric": "kn.AntisymmetricField({kernel}, {activation!r}, damping={damping!r})",
    "symmetric": "kn.SymmetricField({kernel}, {activation!r})",
    "hamiltonian": "kn.HamiltonianField({kernel}, {activation!r})",
    "double_hamiltonian": "kn.DoubleHamiltonianField({kernel}, {kernel}, {activation!r})",
}
_INTEGRATORS = {
    "euler": "kn.Euler()",
    "rk4": "kn.RK4()",
    "midpoint": "kn.Midpoint()",
    "leapfrog": "kn.Leapfrog({start!r})",
    "verlet": "kn.Verlet({start!r})",
}


def as_json(picture: Picture) -> bytes:
    """Scene, verdict, every state (layers, paths, channels) in float64, energy, distances, growth.

    z is that of fields of two parts, v that of leapfrog, null elsewhere; midpoint's y before is the y of the layer before.
    """
    paths, grown = picture.paths, picture.growth
    formula, energy = paths.energy
    table: dict[str, Any] = {
        "keelnet": __version__,
        "convention": "features are rows: a weight acts as y @ weight; layer 0 first; float64",
        "scene": asdict(picture.scene),
        "verdict": picture.verdict,
        "y0": paths.model.y0.numpy(),
        "y": paths.y,
        "z": paths.z,
        "v": paths.v,
        "energy": {"formula": formula, "values": energy},
        "distances": {f"{a + 1},{b + 1}": d for (a, b), d in paths.distances},
        "growth": {
            "layers": grown.layers,
            "log10_largest": grown.largest,
            "log10_smallest": grown.smallest,
        },
    }
    return json.dumps(plain(table), allow_nan=False).encode()


def as_python(picture: Picture) -> bytes:
    """A program that computes the same states, bit for bit on the same machine, and prints where they end."""
    scene = picture.scene
    rows, columns = len(scene.kernel), len(scene.kernel[0])
    values = {
        "kernel": f"kn.DenseKernel({rows}, {columns})",
        "activation": scene.activation,
        "damping": "auto" if scene.damping is None else scene.damping,
        "start": scene.start,
    }
    lines = [
        '"""Written by keelnet explore: features in, the state after every layer out."""',
        "",
        *(["import math", ""] if scene.variation != "constant" or scene.cloud else []),
        "import torch",
        "",
        "import keelnet as kn",
        "",
        f"depth, h = {scene.depth}, {scene.step_size!r}",
        f"integrator = {_INTEGRATORS[scene.integrator].format(**values)}",
        f"field = {_FIELDS[scene.field].format(**values)}",
        f"kernel = torch.tensor({[list(row) for row in scene.kernel]!r}, dtype=torch.float64)",
        *_features(scene),
        *_controls(scene),
        "states = kn.trajectory(integrator, field, y0, controls, h)",
        "y = torch.stack([state[0] for state in states])  # (depth + 1, paths, channels)",
        *_second(scene),
        "",
        'if __name__ == "__main__":',
        f"    for feature in y[-1, :{max(1, len(scene.features))}].tolist():",
        "        print(feature)",
    ]
    return ("\n".join(lines) + "\n").encode()


def _second(scene: Scene) -> list[str]:
    """The other part of the state, under its name."""
    stacked = "torch.stack([state[1] for state in states])"
    if scene.field in TWO_PARTS:
        return [f"z = {stacked}"]
    return [f"v = {stacked}"] if scene.integrator == "leapfrog" else []


def _features(scene: Scene) -> list[str]:
    pad = scene.channels[0] - 2
    given = f"torch.tensor({[list(each) for each in scene.features]!r}, dtype=torch.float64).reshape(-1, 2)"
    lines = [f"y0 = {given}"]
    if scene.cloud:
        lines += [
            f"count = torch.arange({scene.cloud}, dtype=torch.float64)",
            f"radius = {scene.spread!r} * ((count + 0.5) / {scene.cloud}).sqrt()",
            "angle = count * (math.pi * (3 - math.sqrt(5)))",
            "cloud = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)",
            "y0 = torch.cat([y0, cloud])",
        ]
    if pad:
        lines.append(
            f"y0 = torch.nn.functional.pad(y0, (0, {pad}))  # any other coordinate starts at 0"
        )
    return lines


def _controls(scene: Scene) -> list[str]:
    """The kernel of every layer."""
    if scene.variation == "constant":
        lines = ["weights = kernel.repeat(depth, 1, 1)"]
    else:
        sign = ".sign()" if scene.variation == "abrupt" else ""
        lines = [
            "t = (torch.arange(depth, dtype=torch.float64) + 0.5) * h",
            f"wave = torch.sin(2 * math.pi / {scene.period!r} * t){sign}",
            f"weights = kernel * (1 + {scene.strength!r} * wave)[:, None, None]",
        ]
    if scene.field == "double_hamiltonian":
        constant = "kernel.repeat(depth, 1, 1)"
        lines.append(f'controls = {{"weight_1": {constant}, "weight_2": weights}}')
        return lines + _biases(scene, "bias_1", "bias_2")
    return [*lines, 'controls = {"weight": weights}', *_biases(scene, "bias")]


def _biases(scene: Scene, *names: str) -> list[str]:
    """u, the same in every layer, where it is not 0."""
    if not any(value for row in scene.bias for value in row):
        return []
    one = scene.biases[1] == 1
    times = "depth" if one else "depth, 1"
    return [
        f'controls["{name}"] = torch.tensor({list(row)!r}, dtype=torch.float64).repeat({times})'
        for name, row in zip(names, scene.bias, strict=True)
    ]


EXPORTS: Mapping[str, tuple[str, Callable[[Picture], bytes]]] = {
    "scene.json": ("application/json", as_json),
    "scene.py": ("text/x-python; charset=utf-8", as_python),
    "scene.svg": ("image/svg+xml", svg),
    "scene.png": ("image/png", png),
}
