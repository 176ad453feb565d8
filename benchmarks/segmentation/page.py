"""Page: the comparison in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from ceiling import Ceiling
from cells import table, title_of
from contestants import OF_OURS
from costs import costs
from schedule import REGIONS, mean_dice
from scores import Score, best_peer, difference, named
from settings import Settings
from verdicts import Verdict, is_test, targets

COLUMNS = (*REGIONS, "mean")


def page(
    settings: Settings,
    machine: Mapping[str, str],
    scores: Sequence[Score],
    ceiling: Ceiling | None,
    pictures: Mapping[str, str],
) -> str:
    """The whole file."""
    trained = sorted((one for one in scores if one.runs), key=lambda one: -one.dice("test"))
    ours = only_ours(scores)
    title = "what was tried for keelnet" if ours else "keelnet and its peers on the same cases"
    lines = [f"# Segmentation: {title}", "", *_opening(settings), ""]
    if not ours:
        lines += ["## Is this a test?", "", *_verdicts(is_test(scores)), ""]
        lines += ["## What was wanted", "", *_verdicts(targets(scores)), ""]
    lines += ["## Dice", "", *_dice(trained, "test", ceiling), "", *_explained(ceiling)]
    lines += _picture("Dice by contestant", pictures.get("dice"))
    lines += [f"With noise of {settings.perturbation:g} deviations of the brain added to every modality:", ""]  # fmt: skip
    lines += [*_dice(trained, "perturbed"), "", *_differences(scores)]
    lines += ["## Training", "", *_training(trained), "", *_by_seed(settings, trained)]
    lines += _picture("Training loss", pictures.get("loss"))
    lines += [*costs(settings, scores), *_picture("Costs against depth", pictures.get("costs"))]
    lines += ["## Learning rates", "", *_rates(settings, scores), ""]
    lines += [*_missing(scores), "## Settings", "", *_settings(settings, scores, machine)]
    return "\n".join(lines).rstrip() + "\n"


def only_ours(scores: Sequence[Score]) -> bool:
    """Whether keelnet's own designs meet, the ablation: nothing is then claimed of peers."""
    roles = {one.contestant.role for one in scores if one.runs}
    return "variant" in roles and roles <= {"ours", *OF_OURS}


def _picture(title: str, file: str | None) -> list[str]:
    return [] if file is None else [f"![{title}]({file})", ""]


def _opening(settings: Settings) -> list[str]:
    clock = "of its process on one thread" if settings.clock == "cpu" else "of the day"
    shown = (
        f"{settings.test} test cases that chose nothing"
        if settings.test
        else f"the {settings.validation} validation cases, not a test set, so that choices can be made by this page"
    )
    return [
        "Synthetic tumours on a real atlas: a Dice here says nothing clinical. Everyone is trained on the same"
        f" {settings.training} cases at {settings.resolution} mm, {settings.batch} cubes of {settings.crop}³ a step, with the same loader, loss and augmentation for"
        f" {settings.seconds:g} s {clock}, keeps its best iterate by {settings.judged} validation cases, and is then shown"
        f" {shown}. Its learning rate is the best of a search of"
        f" {settings.search_seconds:g} s each on the validation cases. ± is the deviation over seeds; intervals are 95 %,"
        " bootstrapped over cases, seeds averaged.",
    ]


def _verdicts(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return ["No run is finished yet."]
    missing = sum(one.met is None for one in verdicts)
    failed = sum(one.met is False for one in verdicts)
    text = f"{len(verdicts) - missing - failed} of {len(verdicts)} conditions are met"
    text += f", {failed} {'is' if failed == 1 else 'are'} not" if failed else ""
    text += f", {missing} wait for runs" if missing else ""
    rows = [(one.statement, one.wanted, one.measured, one.word) for one in verdicts]
    return [f"{text}.", "", *table(("condition", "wanted", "measured", ""), rows, right=False)]


def _dice(trained: Sequence[Score], on: str, ceiling: Ceiling | None = None) -> list[str]:
    header = ["", *COLUMNS, "look-alikes called tumour", "seeds"]
    rows = [
        [
            title_of(one),
            *[_with_spread(one, on, column) for column in COLUMNS],
            f"{100 * one.dice(on, 'mimics'):.1f} %",
            str(len(one.runs)),
        ]
        for one in trained
    ]
    if ceiling is not None and rows:
        rows.append(["*the tumours as grown*", *[f"{ceiling.mean(column):.3f}" for column in COLUMNS], "–", "–"])  # fmt: skip
    return table(header, rows) if rows else ["No run is finished yet."]


def _explained(ceiling: Ceiling | None) -> list[str]:
    """Of the last row."""
    if ceiling is None:
        return []
    return [
        "The labels are a reader's: the last row is how far the tumours as they were grown agree with them, which is what"
        " a network that knew the truth would score.",
        "",
    ]


def _with_spread(score: Score, on: str, column: str) -> str:
    spread = score.spread(on, column)
    return f"{score.dice(on, column):.3f}" + (f" ± {spread:.3f}" if spread is not None else "")


def _differences(scores: Sequence[Score]) -> Iterator[str]:
    """Ours against the best peer, the controls and whoever else was trained."""
    ours, peer = named(scores, "keelnet"), best_peer(scores)
    others = [one for one in scores if one.runs and one is not ours]
    if ours is None or not others:
        return
    rows = []
    for one in sorted(others, key=lambda one: one.contestant.role not in ("peer", "control")):
        found = difference(ours, one)
        if found is None:  # no seed of both
            continue
        what = "best peer" if one is peer else one.contestant.role
        interval = f"{found.low:+.3f} … {found.high:+.3f}"
        seeds = f"{found.seeds}" if found.alike else f"{found.seeds}, on different processors"
        rows.append((one.title, what, f"{found.mean:+.3f}", interval, str(found.cases), seeds))
    yield "keelnet's mean Dice less another's, paired by case, over the seeds that both ran on the same processor:"
    yield ""
    yield from table(("keelnet less", "", "mean", "95 % interval", "cases", "seeds"), rows)
    yield ""


def _training(trained: Sequence[Score]) -> list[str]:
    rows = [
        (
            title_of(one),
            f"{1e3 * one.mean_of('seconds_a_step'):.0f}",
            f"{1e3 * one.mean_of('seconds_without_loading'):.0f}",
            f"{one.mean_of('steps'):.0f}",
            f"{one.mean_of('parameters'):,.0f}",
            _percent(one.fall(), one.fall_spread()),
            f"{one.dice('training'):.3f}",
            f"{one.dice('validation'):.3f}",
        )
        for one in trained
    ]
    header = ("", "ms a step", "of it not loading", "steps", "parameters", "loss falls in the last fifth", "Dice, training", "Dice, validation")  # fmt: skip
    return table(header, rows) if rows else ["No run is finished yet."]


def _by_seed(settings: Settings, trained: Sequence[Score]) -> Iterator[str]:
    """Dice and steps: a seed's runs are alike in their machine, those of another need not be."""
    if settings.seeds == 1 or not trained:
        return
    yield "Mean Dice and steps, seed by seed (machines differ in speed, see *Settings*):"
    yield ""
    rows = []
    for one in trained:
        runs = {run["seed"]: run for run in one.runs}
        cells = [
            f"{mean_dice(runs[seed]['test']):.3f}, {runs[seed]['steps']:,}" if seed in runs else "–"
            for seed in range(settings.seeds)
        ]
        rows.append((title_of(one), *cells))
    yield from table(("", *(f"seed {seed}" for seed in range(settings.seeds))), rows)
    yield ""


def _percent(value: float | None, spread: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if spread is None else f"{100 * value:.1f} ± {100 * spread:.1f} %"


def _rates(settings: Settings, scores: Sequence[Score]) -> Iterator[str]:
    rows = []
    for one in scores:
        tried = ", ".join(f"{rate:g}: {value:.3f}" for rate, value in sorted(one.searched.items()))
        source = one.contestant.rate_of
        note = f"as {source}" if source else tried
        if one.contestant.role != "weighed" and (one.searched or one.rate is not None):
            rows.append((one.title, "–" if one.rate is None else f"{one.rate:g}", note))
    yield f"Validation Dice after {settings.search_seconds:g} s at each rate tried (nan: it diverged):"
    yield ""
    yield from table(("", "chosen", "tried"), rows, right=False)


def _missing(scores: Sequence[Score]) -> list[str]:
    reasons = [
        f"- {one.title}: {'; '.join(why)}" for one in scores if (why := [*_why_missing(one)])
    ]
    return ["## What is missing", "", *reasons, ""] if reasons else []


def _why_missing(score: Score) -> Iterator[str]:
    """Also of who waits for a turn: a table without a row does not say that there should be one."""
    if score.refused:
        yield score.refused
    if not score.runs and score.contestant.role != "weighed":
        last = score.contestant.role in OF_OURS
        yield f"not trained yet{' (its turn comes after every seed of the others)' if last else ''}"


def _settings(
    settings: Settings, scores: Sequence[Score], machine: Mapping[str, str]
) -> Iterator[str]:
    yield from _run_by(scores, "processor", "on", "a machine not noted")
    if any("versions" in run for one in scores for run in one.runs):
        yield from _run_by(scores, "versions", "with", "versions not noted")
    yield from (f"- {label}: {text}" for label, text in machine.items())
    yield ""
    yield from table(("setting", "value"), [(name, _plain(value)) for name, value in asdict(settings).items()], right=False)  # fmt: skip
    yield ""
    rows = [
        (one.title, one.contestant.role, f"`{json.dumps(one.contestant.described, ensure_ascii=False)}`")
        for one in scores
        if one.contestant.role != "weighed"
    ]  # fmt: skip
    yield from table(("network", "role", "design"), rows, right=False)


def _run_by(scores: Sequence[Score], entry: str, word: str, unknown: str) -> Iterator[str]:
    """Which seeds of whom were run where, or with what: numbers of one are not those of another."""
    seeds: dict[str, dict[tuple[int, ...], list[str]]] = {}
    for one in scores:
        own: dict[str, list[int]] = {}
        for run in one.runs:
            own.setdefault(run.get(entry, unknown), []).append(run["seed"])
        for name, found in own.items():
            seeds.setdefault(name, {}).setdefault(tuple(found), []).append(one.title)
    for name, groups in seeds.items():
        listed = (f"seed {', '.join(map(str, each))} of {', '.join(titles)}" for each, titles in groups.items())  # fmt: skip
        yield f"- runs {word} {name}: {'; '.join(listed)}"


def _plain(value: object) -> str:
    return ", ".join(f"{part:g}" for part in value) if isinstance(value, tuple) else f"{value}"
