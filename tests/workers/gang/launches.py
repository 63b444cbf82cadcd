"""Launches and facts to test with."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workers.contract.data_spec import DigitsData
from workers.contract.launch import Deadlines, LaunchSpec, RankPlacement
from workers.contract.manifest import Manifest, ManifestFile
from workers.contract.model_spec import MlpModel
from workers.contract.paths import checkpoint_folder, fact_file
from workers.contract.recipe import Recipe
from workers.contract.reports import CheckpointRef, CheckpointWritten, Fact, FactBody, Progress
from workers.contract.wire import JobId

JOB = JobId("01900000-0000-7000-8000-000000000001")


def launch(storage: Path, attempt: int = 1, **changes: Any) -> LaunchSpec:
    words: dict[str, Any] = {
        "job_id": JOB,
        "attempt": attempt,
        "name": "job",
        "recipe": Recipe(data=DigitsData(source="digits"), model=MlpModel(kind="mlp", hidden=(8,))),
        "ranks": tuple(RankPlacement(rank=r, node_id=f"n{r}", cpus=1, gpus=0) for r in range(2)),
        "storage_url": str(storage),
        "deadlines": Deadlines(heartbeat_seconds=0.05),
    }
    return LaunchSpec(**{**words, **changes})


def progress(step: int) -> Progress:
    return Progress(
        stage_index=0,
        epoch=0,
        stage_step=step,
        step=step,
        loss=1.0,
        lr=0.1,
        samples=step,
        samples_per_second=1.0,
        step_seconds=1.0,
        data_wait_seconds=0.0,
        eta_seconds=None,
    )


def fact(seq: int, body: FactBody) -> Fact:
    return Fact(seq=seq, at=datetime.now(UTC), body=body)


def written(storage: Path, step: int, attempt: int, job_id: JobId = JOB) -> CheckpointWritten:
    """A checkpoint that really stands there, of one small file."""
    path = checkpoint_folder(job_id, "finetune", step, attempt)
    folder = storage / path
    folder.mkdir(parents=True)
    content = f"weights of step {step}".encode()
    (folder / "data").write_bytes(content)
    file = ManifestFile(name="data", bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    manifest = Manifest(
        job_id=job_id,
        attempt=attempt,
        stage_index=0,
        stage="finetune",
        step=step,
        world_size=2,
        files=(file,),
    )
    text = manifest.model_dump_json().encode()
    (folder / "manifest.json").write_bytes(text)
    ref = CheckpointRef(
        path=path,
        manifest_sha256=hashlib.sha256(text).hexdigest(),
        stage_index=0,
        stage="finetune",
        step=step,
        attempt=attempt,
    )
    return CheckpointWritten(
        ref=ref, bytes=len(content), files=1, save_seconds=0.1, stall_seconds=0.1
    )


def wrote_down(storage: Path, attempt: int, *bodies: FactBody, job_id: JobId = JOB) -> None:
    """Leave facts as an attempt of before would have."""
    for seq, body in enumerate(bodies, start=1):
        place = storage / fact_file(job_id, attempt, seq)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(json.loads(fact(seq, body).model_dump_json())))
