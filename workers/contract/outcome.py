"""How an attempt ended: its result, its kind of failure, and the first cause of it."""

from enum import StrEnum

from workers.contract.wire import Message

CAUSE_LINES_MAX = 200  # lines of a rank's last words that travel with its failure
CAUSE_CHARS_MAX = 16_000  # the same, as text, so that an outcome stays a small message


class FailureKind(StrEnum):
    """Why an attempt failed; each kind has a retry budget of its own in the service."""

    PREEMPTED = "preempted"
    NODE_LOST = "node_lost"
    AGENT_LOST = "agent_lost"
    LOST = "lost"
    WORKER_DIED = "worker_died"
    START_TIMEOUT = "start_timeout"
    HANG = "hang"
    USER_ERROR = "user_error"
    CONFIG = "config"
    OUT_OF_MEMORY = "out_of_memory"
    STORAGE = "storage"
    NON_FINITE = "non_finite"
    POISON = "poison"


class StopReason(StrEnum):
    """Why a gang is told to stop."""

    CANCEL = "cancel"
    HOLD = "hold"
    PREEMPT = "preempt"
    TIME_LIMIT = "time_limit"
    LOST = "lost"  # it was given up before it spoke again
    UNREACHABLE = "unreachable"  # the service was away for too long; the driver's own decision


class Result(StrEnum):
    """The three ways in which an attempt ends of itself."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


class TrainingFailure(Exception):
    """A failure whose kind is known where it happens; its text is a sentence for the owner."""

    kind = FailureKind.USER_ERROR


class ConfigFailure(TrainingFailure):
    """The recipe can't be carried out as written: trying again would change nothing."""

    kind = FailureKind.CONFIG


class StorageFailure(TrainingFailure):
    """Storage refused a write or a read; the previous checkpoint stays current."""

    kind = FailureKind.STORAGE


class NonFiniteFailure(TrainingFailure):
    """The loss became NaN or infinite."""

    kind = FailureKind.NON_FINITE


class FirstCause(Message):
    """The error that brought the gang down; the others' errors came of it."""

    rank: int | None = None  # None: the driver itself
    exception: str
    last_lines: tuple[str, ...] = ()
    collateral: tuple[str, ...] = ()  # the other ranks' errors, grouped by text


class Outcome(Message):
    """The last word of an attempt."""

    result: Result
    failure: FailureKind | None = None
    stop_reason: StopReason | None = None
    message: str = ""
    cause: FirstCause | None = None
    metrics: dict[str, float] = {}  # test_error (%), test_accuracy (%), test_loss (nats), ...
    seconds: float = 0.0
