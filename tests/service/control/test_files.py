"""Logs are read in their order by cursor, and a checkpoint is compared with what was recorded."""

import hashlib
from pathlib import Path

import pytest

from service.control import files as files_module
from service.control.files import Files
from service.domain.errors import BadInput, Conflict, NotFound, Unreachable
from service.domain.records import Job
from tests.service.control.house import House, wrote
from workers.contract.manifest import Manifest, ManifestFile
from workers.contract.paths import log_folder
from workers.contract.reports import CheckpointWritten


def write_log(house: House, job: Job, name: str, text: str, who: str = "driver") -> None:
    folder = Path(house.storage_url.removeprefix("file://")) / log_folder(job.id, 1, who)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def write_checkpoint(house: House, job: Job, step: int, content: bytes = b"weights") -> Path:
    """Write a checkpoint as the workers do, and report it; return its folder."""
    fact = wrote(job.id, step)
    folder = Path(house.storage_url.removeprefix("file://")) / fact.ref.path
    folder.mkdir(parents=True)
    (folder / "rank-0.bin").write_bytes(content)
    file = ManifestFile(
        name="rank-0.bin", bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    manifest = Manifest(
        job_id=job.id,
        attempt=1,
        stage_index=0,
        stage="finetune",
        step=step,
        world_size=1,
        files=(file,),
    ).model_dump_json()
    (folder / "manifest.json").write_text(manifest)
    ref = fact.ref.model_copy(
        update={"manifest_sha256": hashlib.sha256(manifest.encode()).hexdigest()}
    )
    house.report(
        job, CheckpointWritten(ref=ref, bytes=1, files=1, save_seconds=0.0, stall_seconds=0.0)
    )
    return folder


# --- what is kept


def test_a_pinned_checkpoint_is_kept_until_it_is_unpinned(house: House) -> None:
    job = house.running(checkpoint={"keep_last": 1})
    house.report(job, wrote(job.id, 1))
    pinned = house.jobs.pin(job.id, None, pinned=True, actor="user:eva")
    assert (pinned.ref.step, pinned.pinned) == (1, True)
    house.report(job, wrote(job.id, 2), wrote(job.id, 3))
    assert [one.path for one in house.sync().prune] == [wrote(job.id, 2).ref.path]
    house.jobs.pin(job.id, pinned.ref.path, pinned=False, actor="user:eva")
    assert len(house.sync().prune) == 2
    codes = [event.reason for event in house.jobs.events(job.id)]
    assert [code for code in codes if code in ("pinned", "unpinned")] == ["pinned", "unpinned"]


def test_what_is_being_deleted_or_not_there_can_not_be_pinned(house: House) -> None:
    job = house.running(checkpoint={"keep_last": 1})
    with pytest.raises(NotFound, match="has no checkpoint"):
        house.jobs.pin(job.id, None, pinned=True, actor="user:eva")
    house.report(job, wrote(job.id, 1), wrote(job.id, 2))
    with pytest.raises(Conflict, match="is being deleted"):
        house.jobs.pin(job.id, wrote(job.id, 1).ref.path, pinned=True, actor="user:eva")
    with pytest.raises(NotFound, match=r"no checkpoint '\.\./x'"):
        house.jobs.pin(job.id, "../x", pinned=True, actor="user:eva")


def test_the_best_checkpoint_is_kept_where_the_recipe_asks_for_it(house: House) -> None:
    job = house.running(
        data={"source": "digits", "validation_fraction": 0.1},
        checkpoint={"keep_last": 1, "best": {"metric": "validation_error", "mode": "min"}},
    )
    for step, figure in ((1, 5.0), (2, 3.0), (3, 4.0), (4, 2.0), (5, None)):
        house.report(job, wrote(job.id, step).model_copy(update={"figure": figure}))
    doomed = [one.path for one in house.sync().prune]
    assert doomed == [wrote(job.id, step).ref.path for step in (1, 2, 3)]


# --- logs


def test_a_log_is_read_in_the_order_of_its_chunks_and_goes_on_at_the_cursor(house: House) -> None:
    job = house.running()
    for name, text in (("000010.log", "c"), ("000002.log", "b"), ("000001.log", "a")):
        write_log(house, job, name, text)
    part = house.files.logs(job, attempt=None, who="driver")
    assert (part.text, part.attempt) == ("abc", 1)
    assert house.files.logs(job, attempt=1, who="driver", cursor=part.cursor).text == ""
    write_log(house, job, "000011.log", "d")
    assert house.files.logs(job, attempt=1, who="driver", cursor=part.cursor).text == "d"


def test_a_long_log_comes_in_parts_of_which_none_is_lost(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "LOG_BYTES_MAX", 25)
    monkeypatch.setattr(files_module, "LOG_CHUNKS_MAX", 4)
    job = house.running()
    for k in range(12):
        write_log(house, job, f"{k:06d}.log", f"line {k:04d}\n" * (1 + k % 3))
    cursor, parts = "", []
    while part := house.files.logs(job, attempt=1, who="driver", cursor=cursor).text:
        parts.append(part)
        cursor = house.files.logs(job, attempt=1, who="driver", cursor=cursor).cursor
    assert "".join(parts) == "".join(f"line {k:04d}\n" * (1 + k % 3) for k in range(12))
    assert len(parts) > 3


def test_who_has_written_nothing_has_an_empty_log(house: House) -> None:
    assert house.files.logs(house.running(), attempt=None, who="rank-0").text == ""


@pytest.mark.parametrize("who", ["", "../../secret", "rank 0", "a/b", ".."])
def test_a_name_that_is_no_process_is_refused(house: House, who: str) -> None:
    with pytest.raises(BadInput, match="writes no log"):
        house.files.logs(house.running(), attempt=None, who=who)


def test_bytes_that_are_no_text_are_shown_as_such_and_break_nothing(house: House) -> None:
    job = house.running()
    write_log(house, job, "000001.log", "")
    folder = Path(house.storage_url.removeprefix("file://")) / log_folder(job.id, 1, "driver")
    (folder / "000002.log").write_bytes(b"\xff\xfeok")
    assert house.files.logs(job, attempt=1, who="driver").text.endswith("ok")


def test_a_storage_that_can_not_be_opened_says_what_to_look_at(house: House) -> None:
    elsewhere = Files(house.store, storage_url="unheard-of://bucket")
    with pytest.raises(Unreachable, match="STRATA_STORAGE_URL"):
        elsewhere.logs(house.running(), attempt=None, who="driver")


# --- verification


def test_a_whole_checkpoint_is_verified_and_its_manifest_shown(house: House) -> None:
    job = house.running()
    write_checkpoint(house, job, 1)
    write_checkpoint(house, job, 2)
    (verified,) = house.files.verify(job, None)
    assert verified.damage is None
    assert verified.manifest is not None
    assert verified.manifest.step == 2


def test_a_flipped_bit_is_found_and_the_file_named(house: House) -> None:
    job = house.running()
    folder = write_checkpoint(house, job, 1)
    (folder / "rank-0.bin").write_bytes(b"wEights")
    (verified,) = house.files.verify(job, None)
    assert verified.manifest is None
    assert verified.damage == "rank-0.bin does not hash to what manifest.json says"


@pytest.mark.parametrize("name", ["rank-0.bin", "manifest.json"])
def test_a_missing_file_is_damage_and_no_error(house: House, name: str) -> None:
    job = house.running()
    (write_checkpoint(house, job, 1) / name).unlink()
    (verified,) = house.files.verify(job, None)
    assert verified.damage is not None
    assert verified.damage.startswith(f"{name} can't be read")


def test_a_checkpoint_is_chosen_by_its_path_and_only_a_recorded_one(house: House) -> None:
    job = house.running()
    write_checkpoint(house, job, 1)
    write_checkpoint(house, job, 2)
    (verified,) = house.files.verify(job, wrote(job.id, 1).ref.path)
    assert verified.path == wrote(job.id, 1).ref.path
    for path in (wrote(job.id, 3).ref.path, "../../etc"):
        with pytest.raises(NotFound, match="no checkpoint"):
            house.files.verify(job, path)


def test_a_job_without_a_checkpoint_has_nothing_to_verify(house: House) -> None:
    with pytest.raises(NotFound, match="has no checkpoint"):
        house.files.verify(house.running(), None)
