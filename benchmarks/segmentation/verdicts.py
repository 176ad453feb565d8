"""Verdicts: is the task a test, and what was wanted of keelnet on it; met or not met, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from contestants import DEPTHS
from scores import Difference, Score, best_peer, difference, named, shared_seeds

CASES = 30  # the least that a paired difference is taken over
FLAT = "< 5 % with every seed"


@dataclass(frozen=True)
class Verdict:
    """A statement with what was wanted and measured; ``met`` None while runs are missing."""

    statement: str
    wanted: str
    measured: str
    met: bool | None

    @property
    def word(self) -> str:
        return {True: "met", False: "**not met**", None: "not measured yet"}[self.met]


def is_test(scores: Sequence[Score]) -> list[Verdict]:
    """Whether a Dice on these cases says anything: peers have learned what they can, controls cannot follow.

    By validation cases: the task may be changed until this holds, and no choice touches a test case.
    """
    peers = [one for one in scores if one.contestant.role == "peer" and one.runs]
    controls = [one for one in scores if one.contestant.role == "control"]
    return [
        *[_flattened(peer) for peer in peers],
        *[_generalised(peer) for peer in peers],
        *[_behind(control, best_peer(scores, "validation")) for control in controls],
    ]


def _flattened(peer: Score) -> Verdict:
    """Every seed for itself: one that still falls and one that rises are flat in the mean."""
    statement = f"{peer.title}: its training loss falls over the last fifth by"
    falls, mean = peer.falls(), peer.fall()
    if mean is None:
        return Verdict(statement, FLAT, "–", None)
    each = ", ".join("–" if fall is None else f"{100 * fall:.1f}" for fall in falls)
    shown = f"{100 * mean:.1f} % ({each} by seed)"
    return Verdict(statement, FLAT, shown, all(fall is not None and fall < 0.05 for fall in falls))


def _generalised(peer: Score) -> Verdict:
    gap = peer.gap()
    shown = f"{peer.dice('training'):.3f} − {peer.dice('validation'):.3f} = {gap:.3f}"
    return Verdict(f"{peer.title}: Dice of training less validation cases", "< 0.05", shown, gap < 0.05)  # fmt: skip


def _behind(control: Score, peer: Score | None) -> Verdict:
    statement, wanted = (
        f"{control.title}: behind the best peer on ≥ {CASES} validation cases",
        "≥ 0.05",
    )
    if peer is None or not control.runs:
        return Verdict(statement, wanted, "–", None)
    found = difference(peer, control, "validation")
    met = None if found is None else found.mean >= 0.05 and found.cases >= CASES
    return Verdict(f"{statement}, {peer.title}", wanted, _shown(found), met)


def _shown(found: Difference | None) -> str:
    if found is None:
        return "– (no seed of both)"
    where = "" if found.alike else ", on different processors"
    return f"{found.mean:+.3f} ({found.low:+.3f} … {found.high:+.3f}), {found.cases} cases{where}"


def targets(scores: Sequence[Score]) -> list[Verdict]:
    """What was wanted of keelnet."""
    return [*_dice(scores), *_speed(scores), *_memory(scores)]


def _dice(scores: Sequence[Score]) -> Iterator[Verdict]:
    ours, peer, zero = named(scores, "keelnet"), best_peer(scores), named(scores, "zero")
    pairs = (("the best peer", peer, 0.01), ("the same shell without steps", zero, 0.05))
    for title, other, margin in pairs:
        if ours is None or other is None:
            yield Verdict(f"mean Dice above {title}", f"≥ {margin:+}", "–", None)
            continue
        found = difference(ours, other)
        statement = f"mean Dice above {title} ({other.title})" if other is peer else f"mean Dice above {title}"  # fmt: skip
        met = None if found is None else found.mean >= margin
        yield Verdict(statement, f"≥ {margin:+}", _shown(found), met)


def _speed(scores: Sequence[Score]) -> Iterator[Verdict]:
    ours, peer = named(scores, "keelnet"), named(scores, "segresnet8")
    statement = "seconds of a training step over those of SegResNet 8, loading left out"
    if ours is None or peer is None:
        yield Verdict(statement, "≤ 0.6", "–", None)
        return
    # Seed by seed: these runs are of one machine, those of another seed may be of another.
    mine, other = ({run["seed"]: run["seconds_without_loading"] for run in one.runs} for one in (ours, peer))  # fmt: skip
    ratios = [mine[seed] / other[seed] for seed in shared_seeds(ours, peer)]
    if not ratios:
        yield Verdict(statement, "≤ 0.6", "– (no seed of both on one processor)", None)
        return
    ratio = fmean(ratios)
    shown = f"{ratio:.2f} ({', '.join(f'{each:.2f}' for each in ratios)} by seed)"
    yield Verdict(statement, "≤ 0.6", shown, ratio <= 0.6)


def _memory(scores: Sequence[Score]) -> Iterator[Verdict]:
    weighed = {one.contestant.name: one.memory for one in scores if one.memory}
    if not weighed:
        return
    ours = [weighed.get(f"keelnet-{layers}") for layers in DEPTHS]
    least, *_, most = ours
    peer = weighed.get("segresnet8")
    kept = [one["saved_bytes"] for one in ours if one]
    apart = max(kept) / min(kept) - 1 if len(kept) == len(DEPTHS) else None
    growth = most["peak_bytes"] / least["peak_bytes"] if most and least else None
    share = most["peak_bytes"] / peer["peak_bytes"] if most and peer else None
    depths = ", ".join(map(str, DEPTHS[:-1])) + f" and {DEPTHS[-1]}"
    rows = (
        (f"bytes saved for backward at {depths} layers a stage differ by", 0.03, apart),
        (f"peak growth at {DEPTHS[-1]} layers over that at {DEPTHS[0]}", 1.05, growth),
        (f"peak growth at {DEPTHS[-1]} layers over SegResNet 8's", 0.4, share),
    )
    for statement, limit, value in rows:
        shown = "–" if value is None else f"{value:.3f}"
        yield Verdict(statement, f"≤ {limit}", shown, None if value is None else value <= limit)
