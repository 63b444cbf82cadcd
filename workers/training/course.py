"""What stays the same for the whole attempt: the job, this rank's place, the net, the data."""

from dataclasses import dataclass, field

from workers.checkpoint.background import BackgroundSaves
from workers.contract.launch import LaunchSpec
from workers.contract.recipe import Recipe
from workers.contract.reports import CheckpointRef, FactBody
from workers.data.dataset import Dataset
from workers.data.part import Part
from workers.models.layered import Layered
from workers.parallel.mesh import Seat
from workers.stages.catalog import StagePlan
from workers.telemetry.listener import Listener
from workers.telemetry.profiling import Profiling


@dataclass(frozen=True)
class Course:
    """An attempt as one rank sees it."""

    launch: LaunchSpec
    seat: Seat
    listener: Listener
    data: Dataset  # on the rank's device
    pretraining_part: Part  # what layers learn from before: that of the data, or of its own
    net: Layered  # trained in place
    plans: tuple[StagePlan, ...]
    saves: BackgroundSaves
    profiling: Profiling
    written: list[CheckpointRef] = field(default_factory=list)  # so far, by rank 0

    @property
    def recipe(self) -> Recipe:
        """What the owner wrote."""
        return self.launch.recipe

    def tell(self, fact: FactBody) -> None:
        """Tell a fact, if this is the rank that does."""
        if self.seat.is_first:
            self.listener.tell(fact)

    def close(self) -> None:
        """End a trace that was begun, and what works for the data beside this process."""
        self.profiling.close()
        self.data.close()
        self.pretraining_part.close()
