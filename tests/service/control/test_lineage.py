"""`init_from` is one certain checkpoint from the moment of submission, and it is kept."""

from pathlib import Path

import pytest

from service.domain.errors import BadInput, Conflict, NotFound
from service.domain.records import Job
from tests.service.control.house import House, a_spec, wrote

VALIDATED = {"source": "digits", "validation_fraction": 0.1}


def _folder(job: Job, step: int) -> str:
    return wrote(job.id, step).ref.path.rpartition("/")[2]


def _init_path(job: Job) -> str:
    assert job.spec.init_from is not None
    assert job.spec.init_from.manifest_sha256 == "ab" * 32
    return job.spec.init_from.path or ""


def test_a_job_begins_from_the_newest_checkpoint_of_another_which_is_pinned(house: House) -> None:
    source = house.running(checkpoint={"keep_last": 1})
    house.report(source, wrote(source.id, 1), wrote(source.id, 2))
    child = house.submit(init_from=source.id)
    assert _init_path(child) == wrote(source.id, 2).ref.path
    house.report(source, wrote(source.id, 3))
    assert [row.ref.step for row in house.store.checkpoints(source.id) if row.pinned] == [2]
    assert [one.path for one in house.sync().prune] == [wrote(source.id, 1).ref.path]
    assert child.spec.recipe.init_from == child.spec.init_from


def test_the_best_one_goes_before_the_newest_where_a_best_one_is_known(house: House) -> None:
    source = house.running(data=VALIDATED, checkpoint={"best": {}})
    for step, figure in ((1, 5.0), (2, 3.0), (3, 4.0), (4, 3.0)):
        house.report(source, wrote(source.id, step).model_copy(update={"figure": figure}))
    assert _init_path(house.submit(init_from=source.id)) == wrote(source.id, 2).ref.path


def test_a_checkpoint_can_be_named_by_its_folder(house: House) -> None:
    source = house.running()
    house.report(source, wrote(source.id, 1), wrote(source.id, 2))
    child = house.submit(init_from={"source": f"{source.id}/{_folder(source, 1)}", "partial": True})
    assert _init_path(child) == wrote(source.id, 1).ref.path


def test_the_same_key_gives_the_same_job_although_there_are_newer_checkpoints(house: House) -> None:
    source = house.running()
    house.report(source, wrote(source.id, 1))
    spec = a_spec(init_from=source.id)
    first = house.jobs.submit(spec, key="again", owner="user:eva")
    house.report(source, wrote(source.id, 2))
    second = house.jobs.submit(spec, key="again", owner="user:eva")
    assert (second.created, second.job.id) == (False, first.job.id)
    other = a_spec(init_from=f"{source.id}/{_folder(source, 2)}")
    with pytest.raises(Conflict):
        house.jobs.submit(other, key="again", owner="user:eva")


def test_a_checkpoint_that_is_not_there_is_refused_at_its_place(house: House) -> None:
    source = house.running(checkpoint={"keep_last": 1})
    with pytest.raises(BadInput, match="no checkpoint") as caught:
        house.submit(init_from=source.id)
    assert caught.value.place == "init_from"
    house.report(source, wrote(source.id, 1), wrote(source.id, 2))
    for name in (f"{source.id}/{_folder(source, 1)}", f"{source.id}/../../x"):
        with pytest.raises(BadInput, match="no checkpoint"):
            house.submit(init_from=name)
    for ref in (source.id, source.id[-8:], "@latest"):
        with pytest.raises(NotFound, match="in project other"):
            house.jobs.dry_run(a_spec(init_from=ref, project="other"))
    with pytest.raises(NotFound):
        house.submit(init_from="nobody")


def test_weights_that_are_not_there_are_refused_before_the_job_waits(house: House) -> None:
    for weights, said in (("none.safetensors", "there is no"), ("/etc/passwd", "lies outside")):
        with pytest.raises(BadInput, match=said) as caught:
            house.submit(init_from={"weights": weights})
        assert caught.value.place == "init_from.weights"
    (Path(house.storage_url.removeprefix("file://")) / "w.safetensors").write_bytes(b"")
    child = house.submit(init_from={"weights": "w.safetensors"})
    assert child.spec.recipe.init_from == child.spec.init_from
    assert child.spec.init_from is not None
    assert child.spec.init_from.path is None


def test_what_people_write_in_the_place_of_the_service_is_replaced(house: House) -> None:
    source = house.running()
    house.report(source, wrote(source.id, 1))
    written = {"source": source.id, "path": "jobs/x/y", "manifest_sha256": "cd" * 32}
    assert _init_path(house.submit(init_from=written)) == wrote(source.id, 1).ref.path


def test_where_a_job_begins_is_not_given_up_before_that_job_has_ended(house: House) -> None:
    source = house.running(checkpoint={"keep_last": 1})
    house.report(source, wrote(source.id, 1))
    heir = house.submit(init_from=source.id)
    house.report(source, wrote(source.id, 2))
    path = _init_path(heir)
    with pytest.raises(Conflict, match=f"job {heir.id} begins from"):
        house.jobs.pin(source.id, path, pinned=False, actor="user:eva")
    assert house.sync().prune == ()
    house.jobs.cancel(heir.id, actor="user:eva")
    assert not house.jobs.pin(source.id, path, pinned=False, actor="user:eva").pinned
    assert [one.path for one in house.sync().prune] == [path]
