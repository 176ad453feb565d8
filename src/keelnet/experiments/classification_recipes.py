"""Recipes of classification, as their settings: points in the plane, and images."""

from __future__ import annotations

from typing import Any

PLANE: dict[str, Any] = {
    "architecture": "hamiltonian",
    "width": 32,
    "depth": 64,
    "final_time": 8.0,
    "activation": "relu",
    "rate": 1e-2,
    "batch": 64,
}
IMAGE: dict[str, Any] = {
    "architecture": "hamiltonian",
    "width": (16, 32, 64),
    "depth": 4,
    "final_time": 2.0,
    "activation": "relu",
    "rate": 1e-2,
    "batch": 128,
}
CLASSIFICATION: tuple[dict[str, Any], ...] = (
    {
        "name": "ellipses",
        "data": "ellipses",
        **PLANE,
        "width": 16,
        "depth": 32,
        "tikhonov": 1e-3,
        "epochs": 40,
    },
    {"name": "swiss_roll", "data": "swiss_roll", **PLANE, "epochs": 100},
    {"name": "peaks", "data": "peaks", **PLANE, "epochs": 30},
    {"name": "mnist5k", "data": "mnist5k", **IMAGE, "epochs": 30},
    {"name": "mnist", "data": "mnist", **IMAGE, "epochs": 10},
    {"name": "fashion_mnist", "data": "fashion_mnist", **IMAGE, "epochs": None, "minutes": 25.0},
    {"name": "cifar10", "data": "cifar10", **IMAGE, "epochs": 30},
    {"name": "cifar100", "data": "cifar100", **IMAGE, "epochs": 30},
    {"name": "stl10", "data": "stl10", **IMAGE, "epochs": 30},
)
