"""One example of every message, with every field filled in with something that is no default."""

from datetime import UTC, datetime

from tests.workers.contract.written import DAE, written
from workers.contract.inventory import (
    CheckpointPath,
    GangSeen,
    GangState,
    GangStop,
    GangWanted,
    NodeSeen,
    Sync,
    SyncAnswer,
)
from workers.contract.launch import Claim, Deadlines, LaunchSpec, RankPlacement
from workers.contract.manifest import Manifest, ManifestFile
from workers.contract.outcome import FailureKind, FirstCause, Outcome, Result, StopReason
from workers.contract.recipe import Recipe
from workers.contract.reports import (
    CheckpointRef,
    CheckpointWritten,
    Ended,
    Evaluated,
    Fact,
    GangStarted,
    Noticed,
    ProfileOrder,
    Progress,
    Report,
    ReportAnswer,
    StageEnded,
    StageKind,
    StageStarted,
    StopOrder,
    Unknown,
)
from workers.contract.wire import JobId, Message

JOB = JobId("0192f0c1-2345-7000-8000-000000000001")
AT = datetime(2026, 11, 23, 12, 30, 15, 250_000, tzinfo=UTC)

NODE = NodeSeen(
    node_id="ab12",
    host="node-1",
    cpus=8,
    gpus=2,
    gpu_type="H100",
    memory_bytes=2**37,
    labels={"zone": "b"},
)
GANG = GangSeen(job_id=JOB, attempt=2, state=GangState.ABSENT, cause="killed by signal 9")
PATH = CheckpointPath(job_id=JOB, path="jobs/x/checkpoints/finetune-000000001-a1")
WANTED = GangWanted(job_id=JOB, attempt=2, unclaimed=True)
STOP = GangStop(job_id=JOB, attempt=2, reason=StopReason.PREEMPT)
REF = CheckpointRef(
    path="jobs/x/checkpoints/finetune-000000009-a2",
    manifest_sha256="ab" * 32,
    stage_index=3,
    stage="finetune",
    step=9,
    attempt=2,
)
CAUSE = FirstCause(
    rank=1, exception="ValueError: x", last_lines=("a", "b"), collateral=("3 ranks: reset by peer",)
)
OUTCOME = Outcome(
    result=Result.FAILED,
    failure=FailureKind.USER_ERROR,
    stop_reason=StopReason.HOLD,
    message="It failed.",
    cause=CAUSE,
    metrics={"test_error": 1.5},
    seconds=12.5,
)
FACTS = (
    GangStarted(world_size=2, devices=("cpu", "cpu"), resumed_from=REF),
    StageStarted(
        index=1, count=4, name="pretrain-02", kind=StageKind.RBM, epochs=3, steps_per_epoch=15
    ),
    Progress(
        stage_index=1,
        epoch=2,
        stage_step=31,
        step=76,
        loss=0.25,
        lr=0.01,
        samples=7600,
        samples_per_second=1e4,
        step_seconds=0.01,
        data_wait_seconds=0.001,
        eta_seconds=60.0,
        memory_bytes=2**30,
        mfu=0.4,
        metrics={"grad_norm": 0.5},
    ),
    StageEnded(
        index=1,
        name="pretrain-02",
        kind=StageKind.DENOISING_AUTOENCODER,
        epochs=3,
        steps=45,
        loss_first=0.5,
        loss_last=0.25,
        seconds=3.5,
        metrics={"code_sd": 0.2},
    ),
    Evaluated(stage_index=3, step=90, split="test", metrics={"error": 2.5}),
    CheckpointWritten(
        ref=REF, bytes=1000, files=4, save_seconds=0.02, stall_seconds=0.01, figure=2.5
    ),
    Noticed(code="vanishing_gradient", sentence="The gradient vanishes in layer 1."),
    Ended(outcome=OUTCOME),
)
FACT = Fact(seq=7, at=AT, body=FACTS[0])
RANK = RankPlacement(rank=0, node_id="ab12", cpus=1, gpus=1)
DEADLINES = Deadlines(
    heartbeat_seconds=1.0,
    start_seconds=60.0,
    hang_seconds_min=5.0,
    hang_step_factor=3.0,
    phase_seconds=900.0,
    stop_grace_seconds=10.0,
    unreachable_seconds=600.0,
    max_duration_seconds=3600.0,
)
PROFILE = ProfileOrder(number=2, steps=7)
ORDER = StopOrder(reason=StopReason.CANCEL, grace_seconds=30.0)
FILE = ManifestFile(name="__0_0.distcp", bytes=12, sha256="cd" * 32)

EXAMPLES: tuple[Message, ...] = (
    NODE,
    GANG,
    PATH,
    WANTED,
    STOP,
    REF,
    CAUSE,
    OUTCOME,
    *FACTS,
    FACT,
    Unknown(fact="from_the_future"),
    RANK,
    DEADLINES,
    ORDER,
    FILE,
    Sync(
        cluster_id="c",
        boot_id="b",
        nodes=(NODE,),
        gangs=(GANG,),
        pruned=(PATH,),
        known="f",
        wait_seconds=10.0,
    ),
    SyncAnswer(revision=4, fingerprint="f", gangs=(WANTED,), stops=(STOP,), prune=(PATH,)),
    LaunchSpec(
        job_id=JOB,
        attempt=2,
        name="deep",
        recipe=Recipe.model_validate(written(("pretraining", DAE))),
        ranks=(RANK, RANK.model_copy(update={"rank": 1})),
        storage_url="s3://bucket/strata",
        data_roots=("/data",),
        resume=(REF,),
        env={"A": "b"},
        deadlines=DEADLINES,
    ),
    Claim(boot_id="b", job_id=JOB, attempt=2, token_sha256="ef" * 32),
    Manifest(
        job_id=JOB, attempt=2, stage_index=3, stage="finetune", step=9, world_size=2, files=(FILE,)
    ),
    Report(
        facts=tuple(Fact(seq=i, at=AT, body=body) for i, body in enumerate(FACTS, 1)),
        rank_steps=(9, 9),
    ),
    ReportAnswer(held=7, stop=ORDER, profile=PROFILE),
    PROFILE,
)
