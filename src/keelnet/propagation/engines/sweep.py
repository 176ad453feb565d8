"""Sweeps: the loop over layers of the engines whose products are torch's own, without a graph inside.

A rate is sign · f(L x + u), or that closed by Lᵀ. Forward: the product, then one pass that bends it
and moves the target. Backward: one pass that pulls the gradient through f (and, for reversible
methods, takes the move back), the product with Lᵀ that carries it on, and the product that gives
the weight's gradient. What is kept of a layer lies in buffers that are used again.

Every array is (rows, channels): a row is a sample, or a point of a sample. All of them are on the
device of the state.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from keelnet.dynamics.forms import Form
from keelnet.propagation.engines import pool
from keelnet.propagation.engines.loop import Arrays, Loop
from keelnet.propagation.engines.passes import Passes
from keelnet.propagation.engines.products import Products
from keelnet.propagation.engines.record import Record
from keelnet.propagation.problem import Move, Problem

DEVICES = ("cpu", "cuda")  # for which products and passes are written


@dataclass
class Sweep(Loop):
    """One propagation on arrays. ``sums`` maps the controls that want a gradient to their sums.

    ``samples`` are the equal blocks of rows over which an InstanceNorm takes its means.
    """

    problem: Problem
    samples: int = 1
    sums: dict[str, Tensor] = field(default_factory=dict)
    _passes: dict[int, Passes] = field(default_factory=dict)
    _layers: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    _fresh: set[tuple[str, int]] = field(default_factory=set)

    @abstractmethod
    def products(self, form: Form, layer: int) -> Products:
        """L of the form in the layer."""

    def moves(self, layer: int) -> tuple[Move, ...]:
        assert self.problem.moves is not None
        return self.problem.moves[min(layer, 1)]

    def passes(self, form: Form) -> Passes:
        """Of this form; made once."""
        if id(form) not in self._passes:
            first = self.problem.state[0]
            self._passes[id(form)] = Passes(form.activation, form.norm, first.dtype, first.device)
        return self._passes[id(form)]

    def want(self, controls: frozenset[str]) -> None:
        for name in controls:
            like = self.problem.controls[name]
            make = pool.empty if name.startswith("weight") else pool.zeros  # weights' begin afresh
            self.sums[name] = make(tuple(like.shape), like.dtype, like.device)

    def totals(self) -> dict[str, Tensor]:
        return self.sums

    def saved(self, record: Record) -> tuple[Tensor, ...]:
        return record.tensors

    def restored(self, kept: tuple[Tensor, ...]) -> Record:
        return Record.of(kept, self.moves(0))

    # Forward

    def last(self, parts: Arrays, layers: range) -> Arrays:
        owned = [False] * len(parts)
        parts = list(parts)
        for layer in layers:
            for move in self.moves(layer):
                dest = parts[move.to] if owned[move.to] else torch.empty_like(parts[move.to])
                self._moved(move, layer, parts, dest, None, None)
                owned[move.to] = True
            if self.problem.swaps:
                parts.reverse()
                owned.reverse()
        return [part if mine else part.clone() for part, mine in zip(parts, owned, strict=True)]

    def recorded(self, parts: Arrays, layers: range) -> tuple[Arrays, Record]:
        record = self._blank(parts, layers)
        parts = list(parts)
        for place, layer in enumerate(layers):
            for number, move in enumerate(self.moves(layer)):
                kept, before = record.kept[number], record.before[number]
                dest = record.moved[number][place]
                self._moved(
                    move,
                    layer,
                    parts,
                    dest,
                    None if kept is None else kept[place],
                    None if before is None else before[place],
                )
            if self.problem.swaps:
                parts.reverse()
        return parts, record

    def _blank(self, parts: Arrays, layers: range) -> Record:
        record = Record([], [], [])
        count, rows = len(layers), len(parts[0])
        kind = parts[0].dtype, parts[0].device
        for move in self.moves(0):
            shape = (count, *parts[move.to].shape)
            record.moved.append(pool.empty(shape, *kind))
            form = move.form
            inner = None if form is None else (count, rows, form.inner)
            record.kept.append(None if inner is None else pool.empty(inner, *kind))
            normed = form is not None and form.norm is not None
            record.before.append(pool.empty(inner, *kind) if normed and inner is not None else None)
        return record

    def _moved(
        self,
        move: Move,
        layer: int,
        parts: Arrays,
        dest: Tensor,
        kept: Tensor | None,
        before: Tensor | None,
    ) -> None:
        """parts[to] becomes ``dest``, one move further."""
        x, target, form = parts[move.of], parts[move.to], move.form
        if form is None:
            torch.add(target, x, alpha=move.scale, out=dest)
        else:
            factor = move.scale * form.sign
            products, passes = self.products(form, layer), self.passes(form)
            pre = products.apply(x)
            if before is not None:
                before.copy_(pre)
            bias, scale = self._of(form, "bias", layer), self._of(form, "scale", layer)
            if form.closed:
                value = kept if kept is not None and passes.keeps_value else pre
                if value is not kept and kept is not None:
                    passes.bend(pre, bias, scale, None, None, kept, 1.0, self.samples)
                    self._value(form, kept, value)
                else:
                    passes.bend(pre, bias, scale, None, value, None, 1.0, self.samples)
                products.add_adjoint(value, target, factor, dest)
            else:
                passes.bend(pre, bias, scale, target, dest, kept, factor, self.samples)
        parts[move.to] = dest

    # Backward

    def pulled(self, parts: Arrays, record: Record, layers: range, costate: Arrays) -> Arrays:
        sources = list(self._sources(parts, record, layers))
        for place, layer in reversed(list(enumerate(layers))):
            if self.problem.swaps:
                costate = costate[::-1]
            moves = self.moves(layer)
            for number, move in reversed(list(enumerate(moves))):
                x, kept, before = sources[place][number], record.kept[number], record.before[number]
                if move.form is None:
                    costate[move.of].add_(costate[move.to], alpha=move.scale)
                else:
                    assert kept is not None
                    self._pull(
                        move,
                        layer,
                        x,
                        kept[place],
                        None if before is None else before[place],
                        costate,
                    )
        return costate

    def _sources(self, parts: Arrays, record: Record, layers: range) -> Iterator[Arrays]:
        """What each move of each layer read."""
        parts = list(parts)
        for place, layer in enumerate(layers):
            read = []
            for number, move in enumerate(self.moves(layer)):
                read.append(parts[move.of])
                parts[move.to] = record.moved[number][place]
            if self.problem.swaps:
                parts.reverse()
            yield read

    def undone(self, parts: Arrays, costate: Arrays) -> Arrays:
        for layer in reversed(range(self.problem.depth)):
            if self.problem.swaps:
                parts, costate = parts[::-1], costate[::-1]
            for move in reversed(self.moves(layer)):
                if move.form is None:
                    parts[move.to].sub_(parts[move.of], alpha=move.scale)
                    costate[move.of].add_(costate[move.to], alpha=move.scale)
                else:
                    self._undo(move, layer, parts, costate)
        return costate

    def _undo(self, move: Move, layer: int, parts: Arrays, costate: Arrays) -> None:
        form = move.form
        assert form is not None
        x, target, factor = parts[move.of], parts[move.to], move.scale * form.sign
        products, passes = self.products(form, layer), self.passes(form)
        pre = products.apply(x)
        bias, scale = self._of(form, "bias", layer), self._of(form, "scale", layer)
        if form.norm is None and not form.closed:
            sums = self._sum(form, "bias", layer)
            passes.unbend(pre, bias, target, costate[move.to], pre, sums, factor)
            self._carry(move, layer, products, x, pre, costate)
            return
        before = pre.clone() if form.norm is not None else None
        kept = torch.empty_like(pre)
        if form.closed:
            passes.bend(pre, bias, scale, None, None, kept, 1.0, self.samples)
            value = kept if passes.keeps_value else self._value(form, kept, torch.empty_like(kept))
            products.add_adjoint(value, target, -factor, target)
        else:
            passes.bend(pre, bias, scale, target, target, kept, -factor, self.samples)
        self._pull(move, layer, x, kept, before, costate)

    def _pull(
        self,
        move: Move,
        layer: int,
        x: Tensor,
        kept: Tensor,
        before: Tensor | None,
        costate: Arrays,
    ) -> None:
        """Pull the costate through one move of which f left ``kept``."""
        form = move.form
        assert form is not None
        products, passes = self.products(form, layer), self.passes(form)
        factor, above = move.scale * form.sign, costate[move.to]
        if form.closed:
            value = kept if passes.keeps_value else self._value(form, kept, torch.empty_like(kept))
            self._add_gradient(form, layer, products, above, value, factor)
            above = products.apply(above)
        bent = above if form.closed else torch.empty_like(kept)
        passes.pull(kept, above, bent, self._sum(form, "bias", layer), factor)
        if before is not None:
            scale = self._of(form, "scale", layer)
            assert scale is not None
            passes.unnorm(before, bent, scale, bent, self._sum(form, "scale", layer), self.samples)
        self._carry(move, layer, products, x, bent, costate)

    def _carry(
        self,
        move: Move,
        layer: int,
        products: Products,
        x: Tensor,
        bent: Tensor,
        costate: Arrays,
    ) -> None:
        assert move.form is not None
        self._add_gradient(move.form, layer, products, x, bent, 1.0)
        products.add_adjoint(bent, costate[move.of], 1.0, costate[move.of])

    def _add_gradient(
        self, form: Form, layer: int, products: Products, x: Tensor, g: Tensor, factor: float
    ) -> None:
        name = f"weight{form.suffix}"
        if name in self.sums:
            fresh = (name, layer) not in self._fresh
            self._fresh.add((name, layer))
            products.add_gradient(x, g, self.sums[name][layer], factor, fresh)

    def _value(self, form: Form, argument: Tensor, dest: Tensor) -> Tensor:
        """f of its argument, where the slope needs the argument and so that was kept."""
        passes = Passes(form.activation, None, argument.dtype, argument.device)
        passes.bend(argument, None, None, None, dest, None, 1.0, self.samples)
        return dest

    def _of(self, form: Form, kind: str, layer: int) -> Tensor | None:
        name = f"{kind}{form.suffix}"
        return self.layers(name)[layer] if name in self.problem.controls else None

    def layers(self, name: str) -> tuple[Tensor, ...]:
        """A control layer by layer; taken apart once."""
        if name not in self._layers:
            self._layers[name] = self.problem.controls[name].detach().resolve_neg().unbind()
        return self._layers[name]

    def _sum(self, form: Form, kind: str, layer: int) -> Tensor | None:
        sums = self.sums.get(f"{kind}{form.suffix}")
        return None if sums is None else sums[layer]
