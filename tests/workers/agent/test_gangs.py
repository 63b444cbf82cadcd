"""What an agent deletes, what it takes for a living Ray, and how it hears a refusal."""

import json
import os
from pathlib import Path

import psutil
import pytest

from tests.workers.gang.launches import JOB, written
from workers.agent import gangs
from workers.agent.gangs import new_token, prune
from workers.agent.local_ray import environment, living_ray
from workers.agent.service_client import Away, ServiceClient
from workers.contract.inventory import CheckpointPath, Sync


def test_a_checkpoint_is_deleted_when_it_is_asked_for(tmp_path: Path) -> None:
    path = CheckpointPath(job_id=JOB, path=written(tmp_path, 10, 1).ref.path)
    assert prune(str(tmp_path), path)
    assert not (tmp_path / path.path).exists()
    assert prune(str(tmp_path), path)  # asked again: it is not there


@pytest.mark.parametrize(
    "path",
    [
        "strata.db",
        f"jobs/{JOB}",
        f"jobs/{JOB}/checkpoints",
        f"jobs/{JOB}/checkpoints/",
        f"jobs/{JOB}/checkpoints/..",
        f"jobs/{JOB}/checkpoints/../../x",
        f"jobs/{JOB}/attempts/1",
        "jobs/another/checkpoints/finetune-000000010-a1",
    ],
)
def test_nothing_else_is_ever_deleted(tmp_path: Path, path: str) -> None:
    kept = written(tmp_path, 10, 1).ref.path
    assert not prune(str(tmp_path), CheckpointPath(job_id=JOB, path=path))
    assert (tmp_path / kept / "data").exists()


def test_a_record_of_another_process_is_no_living_ray(tmp_path: Path) -> None:
    assert living_ray(tmp_path) is None
    started_at = psutil.Process().create_time()
    record = {"pid": os.getpid(), "started_at": started_at, "address": "a:1", "folder": "/x"}
    (tmp_path / "ray.json").write_text(json.dumps(record))
    found = living_ray(tmp_path)
    assert found is not None
    assert found.address == "a:1"
    (tmp_path / "ray.json").write_text(json.dumps({**record, "started_at": started_at - 100}))
    assert living_ray(tmp_path) is None


def test_the_rays_token_is_the_owners_only_and_stays_the_same(tmp_path: Path) -> None:
    path = Path(environment(tmp_path)["RAY_AUTH_TOKEN_PATH"])
    token = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(token) >= 32
    environment(tmp_path)
    assert path.read_text() == token


def test_gangs_tokens_differ_and_their_hashes_are_not_they() -> None:
    (one, one_hash), (other, _) = new_token(), new_token()
    assert one != other
    assert one not in one_hash


def test_a_service_that_is_not_there_is_away() -> None:
    client = ServiceClient("a", ["http://127.0.0.1:9"], "token")
    with pytest.raises(Away, match="does not answer"):
        client.sync(Sync(cluster_id="c", boot_id="b", nodes=(), gangs=()))


def test_a_gang_that_is_just_ending_does_not_end_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray deletes an actor's class with its last actor, and fails on the name that is still there.

    Seen on a real Ray, where an agent had been killed and the next one met its gang's end.
    """
    asked: list[str] = []

    def forgotten(name: str, namespace: str) -> None:
        asked.append(name)
        raise AssertionError("Expected str or bytes, got <class 'NoneType'>")

    monkeypatch.setattr("ray.get_actor", forgotten)
    gangs.kill(frozenset({"rank/a/1/0", "gang/a/1"}))
    assert asked == ["gang/a/1", "rank/a/1/0"]
