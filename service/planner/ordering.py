"""Who is asked first: the higher priority, then the earlier submit."""

from collections.abc import Iterable

from service.planner.snapshot import Pending


def in_order(pending: Iterable[Pending]) -> list[Pending]:
    """The queue, head first."""
    return sorted(pending, key=lambda job: (-job.priority, job.seq))
