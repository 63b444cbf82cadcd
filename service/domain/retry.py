"""After a failure: again, or not. A budget per kind of failure; progress makes it whole again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workers.contract.outcome import FailureKind

FREE_MAX = 20  # failures that are nobody's fault, in a row without progress, before a person looks
POISON_DEATHS = 5  # deaths in a row ...
POISON_SECONDS = 60.0  # ... each so soon after its start, without a checkpoint
BACKOFF_SECONDS = 2.0  # the first delay; it doubles
BACKOFF_SECONDS_MAX = 300.0

BUDGET: Mapping[FailureKind, int] = {
    FailureKind.PREEMPTED: FREE_MAX,
    FailureKind.NODE_LOST: FREE_MAX,
    FailureKind.AGENT_LOST: FREE_MAX,
    FailureKind.LOST: FREE_MAX,
    FailureKind.WORKER_DIED: 3,
    FailureKind.START_TIMEOUT: 3,
    FailureKind.HANG: 3,
    FailureKind.USER_ERROR: 0,  # or the spec's `retries`
    FailureKind.CONFIG: 0,  # the same would happen again
    FailureKind.OUT_OF_MEMORY: 0,
    FailureKind.STORAGE: 5,
    FailureKind.NON_FINITE: 0,
    FailureKind.POISON: 0,
}
FREE = frozenset(kind for kind, budget in BUDGET.items() if budget == FREE_MAX)
BACKED_OFF = frozenset({FailureKind.USER_ERROR, FailureKind.STORAGE})
"""Kinds that wait before every retry; the others try the first time at once."""


@dataclass(frozen=True)
class AttemptEnd:
    """How one attempt ended, as far as the rules look."""

    failure: FailureKind
    lasted_seconds: float
    made_progress: bool  # it wrote a checkpoint that its predecessor did not have


@dataclass(frozen=True)
class Again:
    """Queue it again, after the delay."""

    delay_seconds: float
    sentence: str


@dataclass(frozen=True)
class Hold:
    """A person has to look at it."""

    failure: FailureKind
    sentence: str


@dataclass(frozen=True)
class GiveUp:
    """It has failed for good."""

    sentence: str


def decide(history: Sequence[AttemptEnd], retries: int, jitter: float) -> Again | Hold | GiveUp:
    """Decide after `history[-1]`, the attempt that just failed; `jitter` is in [0, 1)."""
    last = history[-1]
    streak = _since_progress(history)
    if _is_poison(streak):
        return Hold(
            FailureKind.POISON,
            f"died {POISON_DEATHS} times within {POISON_SECONDS:.0f} s of its start "
            "without a new checkpoint",
        )
    count = sum(end.failure == last.failure for end in streak)
    budget = retries if last.failure is FailureKind.USER_ERROR else BUDGET[last.failure]
    if count > budget:
        if last.failure in FREE:
            return Hold(last.failure, f"{last.failure} {count} times in a row without progress")
        return GiveUp(_beyond(last.failure, budget))
    delay = _delay_seconds(last.failure, count, jitter)
    return Again(delay, f"{last.failure}: retry {count} of {budget}")


def _since_progress(history: Sequence[AttemptEnd]) -> Sequence[AttemptEnd]:
    """The last attempts in a row that died without progress, and the one that just failed."""
    first = len(history) - 1
    while first > 0 and not history[first].made_progress:
        first -= 1
    return history[first:]


def _is_poison(streak: Sequence[AttemptEnd]) -> bool:
    deaths = [
        end
        for end in streak
        if end.failure not in FREE and end.lasted_seconds < POISON_SECONDS and not end.made_progress
    ]
    return len(deaths) >= POISON_DEATHS


def _delay_seconds(failure: FailureKind, count: int, jitter: float) -> float:
    """Exponential back-off with full jitter, so that jobs that failed together part."""
    steps = count - 1 if failure in BACKED_OFF else count - 2
    if steps < 0:
        return 0.0
    return float(jitter * min(BACKOFF_SECONDS * 2.0**steps, BACKOFF_SECONDS_MAX))


def _beyond(failure: FailureKind, budget: int) -> str:
    if budget == 0:
        return f"{failure} is not tried again"
    return f"{failure} beyond its {budget} retries"
