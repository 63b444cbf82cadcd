"""All that a gang needs in order to run one attempt; it is the answer to a claim."""

from workers.contract.recipe import Recipe
from workers.contract.reports import CheckpointRef
from workers.contract.wire import CONTRACT_VERSION, JobId, Message


class RankPlacement(Message):
    """One worker of the gang and the node that the plan gave it."""

    rank: int
    node_id: str  # Ray's node id, in hex
    cpus: int
    gpus: int


class Deadlines(Message):
    """The clocks that the gang keeps by itself, in seconds."""

    heartbeat_seconds: float = 2.0
    start_seconds: float = 120.0
    hang_seconds_min: float = 30.0
    hang_step_factor: float = 5.0  # times the median step of the stage
    phase_seconds: float = 1800.0  # of one evaluation, checkpoint or set-up
    stop_grace_seconds: float = 60.0
    unreachable_seconds: float = 86_400.0
    max_duration_seconds: float | None = None


class LaunchSpec(Message):
    """One attempt of one job, as it was planned."""

    version: int = CONTRACT_VERSION
    job_id: JobId
    attempt: int
    name: str
    recipe: Recipe
    ranks: tuple[RankPlacement, ...]
    storage_url: str  # the storage root; all paths of the attempt lie below it
    data_roots: tuple[str, ...] = ()  # where data may be read from besides the storage root
    resume: tuple[CheckpointRef, ...] = ()  # newest first; later ones are fall-backs
    env: dict[str, str] = {}
    deadlines: Deadlines = Deadlines()

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return len(self.ranks)


class Claim(Message, defer_build=False):  # FastAPI looks inside at once
    """POST /v1/agents/{name}/claims: an agent takes a reserved attempt, once."""

    version: int = CONTRACT_VERSION
    boot_id: str
    job_id: JobId
    attempt: int
    token_sha256: str  # of the gang's token; the token itself never reaches the service's storage
