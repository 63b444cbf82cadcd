"""What a gang tells the service, and what it is told in return.

Facts bear (attempt, sequence number). The service keeps them in order and answers up to which
number it holds them; a repeat counts once. Metrics may be dropped when the service is away, so
sequence numbers may have gaps; the facts that matter are on storage before they are sent.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from workers.contract.outcome import Outcome, StopReason
from workers.contract.wire import CONTRACT_VERSION, Message

FACTS_PER_REPORT_MAX = 500  # one insert stays under 50 ms on SQLite
NOTICE_CODE_CHARS_MAX = 60  # what the service's column holds
PROFILE_STEPS = 10  # unless told otherwise
PROFILE_STEPS_MAX = 1000  # a trace of more is larger than what its viewers open
PROFILED = "profiled"  # the code under which the gang tells where a trace is
PROFILE_FAILED = "profile_failed"  # ... or why there is none


class StageKind(StrEnum):
    """What a stage trains."""

    DENOISING_AUTOENCODER = "denoising_autoencoder"
    RBM = "rbm"
    GREEDY_SUPERVISED = "greedy_supervised"
    FINETUNE = "finetune"


class CheckpointRef(Message):
    """Where a checkpoint stands and what must be found there; `path` is below the storage root."""

    path: str
    manifest_sha256: str
    stage_index: int
    stage: str
    step: int  # optimizer steps of the whole job, over all stages
    attempt: int


class GangStarted(Message):
    """Every rank is up and has joined the process group."""

    fact: Literal["gang_started"] = "gang_started"
    world_size: int
    devices: tuple[str, ...] = ()
    resumed_from: CheckpointRef | None = None


class StageStarted(Message):
    """A stage begins, or goes on after a resume."""

    fact: Literal["stage_started"] = "stage_started"
    index: int  # from 0
    count: int  # stages of the whole job
    name: str  # "pretrain-01", ..., "finetune"
    kind: StageKind
    epochs: int
    steps_per_epoch: int


class Progress(Message):
    """Where the training is, a few times a second at the most."""

    fact: Literal["progress"] = "progress"
    stage_index: int
    epoch: int  # whole epochs done in this stage
    stage_step: int  # optimizer steps done in this stage
    step: int  # optimizer steps of the whole job
    loss: float | None  # mean over the steps since the last progress; None where not finite
    lr: float
    samples: int  # samples seen by the whole job
    samples_per_second: float
    step_seconds: float
    data_wait_seconds: float  # part of step_seconds
    eta_seconds: float | None  # to the end of the job, as far as it can be told
    memory_bytes: int | None = None  # of rank 0: of its GPU the peak since, else of its process
    mfu: float | None = None  # share of the GPUs' peak FLOP/s; None where that is not known
    metrics: dict[str, float] = {}  # reconstruction_error, code_sd, grad_norm, ...


FIGURES = (
    "loss",
    "lr",
    "samples_per_second",
    "step_seconds",
    "data_wait_seconds",
    "memory_bytes",
    "mfu",
)
"""The fields of a Progress that are curves; so is each of its metrics."""


class StageEnded(Message):
    """A stage is complete; its checkpoint has been reported before it."""

    fact: Literal["stage_ended"] = "stage_ended"
    index: int
    name: str
    kind: StageKind
    epochs: int
    steps: int
    loss_first: float | None  # mean loss of the first epoch
    loss_last: float | None  # mean loss of the last epoch
    seconds: float  # training time, summed over attempts where it was resumed
    metrics: dict[str, float] = {}


class Evaluated(Message):
    """The net was evaluated on a part of the data: error and accuracy in %, loss in nats."""

    fact: Literal["evaluated"] = "evaluated"
    stage_index: int
    step: int
    split: Literal["validation", "test"]
    metrics: dict[str, float]


class CheckpointWritten(Message):
    """A checkpoint is whole on storage: its manifest was written last."""

    fact: Literal["checkpoint"] = "checkpoint"
    ref: CheckpointRef
    bytes: int
    files: int
    save_seconds: float
    stall_seconds: float  # how long the optimizer waited for it
    figure: float | None = None  # of the recipe's `checkpoint.best`, where this net was evaluated


class Noticed(Message):
    """Something that the owner should read, in a sentence: a diagnosis, a fall-back."""

    fact: Literal["noticed"] = "noticed"
    # A stable word: vanishing_gradient, checkpoint_fallback, ...
    code: str = Field(max_length=NOTICE_CODE_CHARS_MAX)
    sentence: str


class Ended(Message):
    """The attempt's outcome; no fact follows it."""

    fact: Literal["ended"] = "ended"
    outcome: Outcome


FactBody = Annotated[
    GangStarted
    | StageStarted
    | Progress
    | StageEnded
    | Evaluated
    | CheckpointWritten
    | Noticed
    | Ended,
    Field(discriminator="fact"),
]


class Unknown(Message):
    """A fact that this side does not understand: a newer gang's; it is counted, not kept."""

    fact: str


class Fact(Message):
    """One fact with its place in the attempt's order."""

    seq: int = Field(ge=1)
    at: AwareDatetime
    body: Annotated[FactBody | Unknown, Field(union_mode="left_to_right")]


class Report(Message, defer_build=False):  # FastAPI looks inside at once
    """POST /v1/attempts/{job_id}/{attempt}/reports; without facts it is a heartbeat."""

    version: int = CONTRACT_VERSION
    facts: Annotated[tuple[Fact, ...], Field(max_length=FACTS_PER_REPORT_MAX)] = ()
    rank_steps: tuple[int, ...] = ()  # optimizer steps of every rank: alive is not advancing


class StopOrder(Message):
    """Stop at the next common step, write a checkpoint, say why."""

    reason: StopReason
    grace_seconds: float


class ProfileOrder(Message):
    """Trace the next steps of rank 0; it stands in every answer, and is carried out once."""

    number: int  # from 1 in each attempt: a higher one is a new order
    steps: int = Field(ge=1, le=PROFILE_STEPS_MAX)


class ReportAnswer(Message):
    """Up to which fact the service holds, and what the gang shall do."""

    version: int = CONTRACT_VERSION
    held: int  # the highest sequence number in the database
    stop: StopOrder | None = None
    profile: ProfileOrder | None = None
