"""What tells jobs from each other: where their recipes differ, and how well each did.

Jobs that differ in their seed alone are one arm; its figures are means with their spread. The
answers are plain values, as both doors and the plots need them.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.domain.matrix import LABEL_ARM, TAGS

NOT_THE_RECIPE = ("name", "labels", "seed", "env", "queue", "project", "priority", "retries")
CURVE_POINTS = 60  # of an arm's curve in answers: as wide as a terminal shows
ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Ran:
    """One job, as far as a comparison looks at it."""

    id: str
    name: str
    state: str
    spec: Mapping[str, Any]
    metrics: Mapping[str, float | None]  # the final ones; None: not finite
    attempts: int
    seconds: float | None  # from its first start to its end
    epochs: tuple[tuple[str, int], ...]  # of each stage: its kind, its epochs
    curve: tuple[tuple[int, float], ...]  # of the fine-tuning: step, loss


@dataclass(frozen=True, slots=True)
class Figure:
    """A final metric over an arm's jobs."""

    mean: float
    sd: float | None  # None of one job
    num_jobs: int


@dataclass(frozen=True, slots=True)
class Arm:
    """Jobs that differ in their seed alone."""

    name: str
    job_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    states: tuple[str, ...]
    recipe: Mapping[str, str]  # under the comparison's `paths`
    epochs: str  # "10 x 40 + 100": of each pretraining stage, then of the fine-tuning
    metrics: Mapping[str, Figure]
    seconds: Figure | None
    attempts: int  # of all its jobs
    curve: tuple[tuple[int, float], ...]  # of its first job that has one


@dataclass(frozen=True, slots=True)
class Comparison:
    """Arms in the order in which their first jobs were named."""

    paths: tuple[str, ...]  # of the recipe, where the arms differ
    metrics: tuple[str, ...]
    arms: tuple[Arm, ...]


def compare(jobs: Sequence[Ran]) -> Comparison:
    """Put jobs beside each other."""
    groups: dict[str, list[Ran]] = {}
    for job in jobs:
        groups.setdefault(_identity(job.spec), []).append(job)
    recipes = [dict(_leaves(_recipe(group[0].spec), "")) for group in groups.values()]
    paths = _differences(recipes)
    arms = [
        _arm(group, {path: recipe.get(path, ABSENT) for path in paths})
        for group, recipe in zip(groups.values(), recipes, strict=True)
    ]
    metrics = dict.fromkeys(name for arm in arms for name in arm.metrics)
    return Comparison(paths, tuple(metrics), tuple(arms))


def _identity(spec: Mapping[str, Any]) -> str:
    return repr(sorted(_leaves(_recipe(spec), "")))


def _recipe(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in NOT_THE_RECIPE}


def _leaves(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Each path that ends in a plain value or a list, with that value as it is shown."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    elif value is not None:
        yield path, _shown(value)


def _shown(value: object) -> str:
    """A value in few letters: [100, 100, 100] as 3 x 100."""
    if isinstance(value, list | tuple):
        if len(value) > 1 and all(part == value[0] for part in value):
            return f"{len(value)} x {_shown(value[0])}"
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _differences(recipes: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """The paths where recipes differ.

    A path that only some of them have counts where those differ in it. Its mere presence is told
    by the tag above it: that one has `pretraining.method` says enough about `pretraining.lr`.
    """
    found = []
    for path in dict.fromkeys(path for recipe in recipes for path in recipe):
        values = {recipe[path] for recipe in recipes if path in recipe}
        is_missing = any(path not in recipe for recipe in recipes)
        head, _, last = path.rpartition(".")
        is_told = any(f"{head}.{tag}" in recipe for tag in TAGS for recipe in recipes)
        if len(values) > 1 or (is_missing and (last in TAGS or not is_told)):
            found.append(path)
    return tuple(found)


def _arm(group: Sequence[Ran], recipe: Mapping[str, str]) -> Arm:
    names = dict.fromkeys(name for job in group for name in job.metrics)
    figures = {name: _figure([job.metrics.get(name) for job in group]) for name in names}
    first = group[0]
    return Arm(
        name=str((first.spec.get("labels") or {}).get(LABEL_ARM) or first.name),
        job_ids=tuple(job.id for job in group),
        seeds=tuple(int(job.spec.get("seed", 0)) for job in group),
        states=tuple(dict.fromkeys(job.state for job in group)),
        recipe=recipe,
        epochs=_epochs(first.epochs),
        metrics={name: figure for name, figure in figures.items() if figure is not None},
        seconds=_figure([job.seconds for job in group]),
        attempts=sum(job.attempts for job in group),
        curve=_thinned(next((job.curve for job in group if job.curve), ())),
    )


def _figure(values: Sequence[float | None]) -> Figure | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    sd = statistics.stdev(known) if len(known) > 1 else None
    return Figure(statistics.fmean(known), sd, len(known))


def _epochs(stages: Sequence[tuple[str, int]]) -> str:
    """Runs of equal stages as `10 x 40`, joined by +."""
    runs: list[tuple[tuple[str, int], int]] = []  # kind and epochs, how many of them
    for stage in stages:
        count = runs.pop()[1] if runs and runs[-1][0] == stage else 0
        runs.append((stage, count + 1))
    return " + ".join(f"{count} x {one}" if count > 1 else str(one) for (_, one), count in runs)


def _thinned(curve: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """At most CURVE_POINTS of a curve, evenly taken, its ends among them."""
    if len(curve) <= CURVE_POINTS:
        return tuple(curve)
    last = len(curve) - 1
    return tuple(curve[round(at * last / (CURVE_POINTS - 1))] for at in range(CURVE_POINTS))
