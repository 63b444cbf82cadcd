"""What the training tells while it runs, and what it asks: shall I stop, shall I trace?"""

from typing import Protocol

from workers.contract.reports import FactBody, ProfileOrder, StopOrder

BEGIN_PHASE = "begin"  # a stage's first steps, in which libraries load and compilers compile


class Listener(Protocol):
    """Kept by a rank actor; a plain recorder in tests. Calls are cheap and never block.

    Only rank 0 tells facts; every rank advances, so that a lagging rank can be named.
    """

    def tell(self, fact: FactBody) -> None:
        """Hand over a fact; facts keep their order and none is lost while this process lives."""

    def advance(self, step: int) -> None:
        """Say that `step` optimizer steps of the job are done on this rank."""

    def phase(self, name: str) -> None:
        """Say what this rank is doing: "setup", "begin", "train", "evaluate", "checkpoint"..."""

    def stop_order(self) -> StopOrder | None:
        """The order to stop, once there is one; ranks may see it at different steps."""

    def profile_order(self) -> ProfileOrder | None:
        """The newest order to trace steps, on rank 0; it stays after it was carried out."""
