"""What a curve says in words: to the gang while it grows, to the service whenever it is asked."""

from collections.abc import Sequence

from workers.contract.reports import Noticed

STARVED = 0.3  # of a step's time that waits for data: faster data would help more than anything
STILL = 0.01  # of its height that a loss moves while it stands still
LEARNED = 0.9  # of its first value below which a loss has come down at all
TAIL = 0.5  # of a curve that is looked at for what it does now
PLATEAU = "plateau"
STARVED_BY_DATA = "starved_by_data"


def plateau(first_loss: float, steps: Sequence[int], losses: Sequence[float]) -> Noticed | None:
    """Say so of a fine-tuning's loss that has not come down, and does not move any more.

    Args:
        first_loss: where it began.
        steps: at which the losses were told, in order; at least one.
        losses: the newest of them, or all; finite, in nats.
    """
    tail = losses[-max(1, round(len(losses) * TAIL)) :]
    is_still = max(tail) - min(tail) <= STILL * max(abs(max(tail)), 1e-12)
    if not is_still or tail[-1] <= LEARNED * first_loss:
        return None
    return Noticed(
        code=PLATEAU,
        sentence=f"The loss began at {first_loss:.4g} and stands at {tail[-1]:.4g}: it has not "
        f"moved by more than {STILL:.0%} since step {steps[-len(tail)]}. Look at the layers below; "
        "where their gradients fade, pretrain them or initialise them better, else try another "
        "learning rate.",
    )


def starved(step_seconds: float, wait_seconds: float) -> Noticed | None:
    """Say so of steps that wait for their data.

    Args:
        step_seconds: of some steps, all told.
        wait_seconds: the part of it in which they waited.
    """
    share = wait_seconds / step_seconds if step_seconds > 0 else 0.0
    if share <= STARVED:
        return None
    return Noticed(
        code=STARVED_BY_DATA,
        sentence=f"{share:.0%} of each step waits for data: put the data nearer to the workers, "
        "give each more CPUs, or let processes of their own decode it (data.workers).",
    )
