"""Why a job does not learn, or not fast: what its curves and events say, in words.

The layers' own verdicts come from the gang, which alone sees tensors; see
`workers.telemetry.diagnostics`. Here the curves are read: what stands still, starves or repeats.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.domain.records import Attempt, Event, Job, Measurement
from workers.contract.curve_verdicts import plateau, starved
from workers.contract.reports import Noticed, Progress
from workers.contract.wire import JobId

LINES_MIN = 12  # of a curve's lines, before anything is said of it
CODES = frozenset(
    {
        "vanishing_gradient",
        "exploding_gradient",
        "dead_units",
        "saturated_units",
        "representation_collapsed",
        "checkpoint_fallback",
        "checkpoint_failed",
        "codes_not_kept",
        "non_finite_skipped",
        "rolled_back",
        "stopped_early",
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that keeps a job from learning."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """One layer at the last look into it; None where it has no such figure."""

    name: str
    grad_norm: float | None
    update_ratio: float | None
    code_sd: float | None
    saturation: float | None
    dead: float | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A job, seen from inside."""

    job_id: JobId
    verdicts: tuple[Verdict, ...]  # none: nothing stands out
    layers: tuple[LayerFigures, ...]  # from the input up, at the last look
    looked_at_step: int | None


def diagnose(
    job: Job,
    attempts: Sequence[Attempt],
    *,
    finetune: int | None,
    first: Measurement | None,
    curve: Sequence[Measurement],
    events: Sequence[Event],
) -> Diagnosis:
    """Put together what is known.

    Args:
        job: the job.
        attempts: all of its own.
        finetune: the index of its fine-tuning, once that began.
        first: the first line of the fine-tuning.
        curve: the newest lines, in order; the first one need not be among them.
        events: what was said, in order.
    """
    verdicts = [*_told(events), *_starved(curve), *_failed(attempts)]
    if first is not None:
        lines = [line.progress for line in curve if line.progress.stage_index == finetune]
        verdicts += _standing(first.progress, lines)
    looks = [line for line in curve if any("." in name for name in line.progress.metrics)]
    last = looks[-1].progress if looks else None
    return Diagnosis(
        job_id=job.id,
        verdicts=tuple(verdicts),
        layers=_layers(last.metrics) if last else (),
        looked_at_step=last.step if last else None,
    )


def _told(events: Sequence[Event]) -> Iterator[Verdict]:
    """What the gang said, each code as it said it last."""
    last = {event.reason: event.message for event in events if event.reason in CODES}
    for code, sentence in last.items():
        yield Verdict(code, sentence)


def _standing(first: Progress, lines: Sequence[Progress]) -> Iterator[Verdict]:
    """A loss that has not come down since its first line, and does not move any more."""
    known = [
        (line.step, line.loss)
        for line in lines
        if line.loss is not None and math.isfinite(line.loss)
    ]
    if len(known) >= LINES_MIN and first.loss is not None:
        steps, losses = zip(*known, strict=True)
        yield from _verdicts(plateau(first.loss, steps, losses))


def _starved(curve: Sequence[Measurement]) -> Iterator[Verdict]:
    """Steps that wait for their data."""
    lines = [line.progress for line in curve][-LINES_MIN:]
    if len(lines) == LINES_MIN:
        seconds = sum(line.step_seconds for line in lines)
        yield from _verdicts(starved(seconds, sum(line.data_wait_seconds for line in lines)))


def _verdicts(noticed: Noticed | None) -> Iterator[Verdict]:
    if noticed is not None:
        yield Verdict(noticed.code, noticed.sentence)


def _failed(attempts: Sequence[Attempt]) -> Iterator[Verdict]:
    """Attempts that cost time, by how they failed."""
    kinds = Counter(attempt.failure.value for attempt in attempts if attempt.failure is not None)
    if kinds:
        counted = ", ".join(f"{kind} {count} x" for kind, count in sorted(kinds.items()))
        yield Verdict(
            "attempts_failed",
            f"{kinds.total()} of {len(attempts)} attempts failed ({counted}); "
            "`strata events` has their last words.",
        )


def _layers(metrics: dict[str, float]) -> tuple[LayerFigures, ...]:
    names = dict.fromkeys(name.partition(".")[2] for name in metrics if "." in name)
    kinds = ("grad_norm", "update_ratio", "code_sd", "saturation", "dead")
    return tuple(
        LayerFigures(name, *(metrics.get(f"{kind}.{name}") for kind in kinds)) for name in names
    )
