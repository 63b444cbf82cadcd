"""A server of S3's protocol that answers with errors: nothing is lost or loaded in silence."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pytest
import torch

from tests.workers.checkpoint.failing_server import FailingServer, failing_server
from tests.workers.checkpoint.saving import file_names, saved, some_tensors
from tests.workers.training.attempts import Recorder, launch, recipe, run_alone
from workers.checkpoint.reader import load, newest_whole
from workers.contract.outcome import FailureKind, StorageFailure
from workers.contract.reports import CheckpointWritten, FactBody, Noticed
from workers.contract.wire import JobId
from workers.parallel.mesh import Seat
from workers.training.run import train


@pytest.fixture(scope="module")
def server() -> Iterator[FailingServer]:
    with failing_server() as running:
        yield running


@pytest.fixture(scope="module")
def s3_server(server: FailingServer) -> str:
    """Where `bucket` is made."""
    return server.url


@pytest.fixture(autouse=True)
def _all_is_well_before_and_after(server: FailingServer, bucket: str) -> Iterator[None]:
    yield
    server.arm()


def test_an_error_at_any_request_of_a_save_is_a_storage_failure_and_never_a_checkpoint(
    bucket: str, server: FailingServer
) -> None:
    """For some requests the library finds another way; then all is saved."""
    server.arm()
    refs = [saved(bucket, step=1)]
    texts = []
    for request in range(1, server.num_requests + 1):
        server.arm(fail_on=[request])
        try:
            refs.append(saved(bucket, step=1 + request))
        except StorageFailure as failure:
            texts.append(str(failure))
        assert server.num_failures == 1, f"request {request}"
    for name in file_names(bucket, refs[0]):
        assert any(f"{name} can't be written" in text for text in texts), name
    files, root = fsspec.url_to_fs(bucket)
    files.invalidate_cache()
    manifests = {path.split("/")[-2] for path in files.glob(f"{root}/**/manifest.json")}
    assert manifests == {ref.path.rpartition("/")[2] for ref in refs}
    assert [newest_whole(bucket, [ref]) for ref in refs] == [(ref, ()) for ref in refs]


def test_an_error_at_any_request_of_a_load_is_no_damage(bucket: str, server: FailingServer) -> None:
    """For some requests the library finds another way; then all is loaded."""
    ref = saved(bucket, tensors=some_tensors(3.0))
    files = fsspec.url_to_fs(bucket)[0]
    files.invalidate_cache()
    server.arm()
    load(bucket, ref, some_tensors(0.0), rank=0)
    num_failed = 0
    for request in range(1, server.num_requests + 1):
        files.invalidate_cache()
        server.arm(fail_on=[request])
        found = some_tensors(0.0)
        try:
            load(bucket, ref, found, rank=0)
        except StorageFailure:
            num_failed += 1
        else:
            torch.testing.assert_close(found, some_tensors(3.0), rtol=0, atol=0)
        assert server.num_failures == 1, f"request {request}"
    assert num_failed >= len(file_names(bucket, ref))


def test_a_server_that_is_busy_for_a_moment_is_asked_again(
    bucket: str, server: FailingServer
) -> None:
    server.arm(fail_on=[2, 9], is_passing=True)
    ref = saved(bucket, tensors=some_tensors(3.0))
    found = some_tensors(0.0)
    load(bucket, ref, found, rank=0)
    assert server.num_failures == 2
    torch.testing.assert_close(found, some_tensors(3.0), rtol=0, atol=0)


@dataclass
class Breaking(Recorder):
    """Lets storage fail after a checkpoint, until it is told that another one was not saved."""

    server: FailingServer = field(default_factory=FailingServer)
    breaks_after: int = 0  # the step of that checkpoint

    def tell(self, fact: FactBody) -> None:
        super().tell(fact)
        if isinstance(fact, CheckpointWritten) and fact.ref.step == self.breaks_after:
            self.server.arm(fail_on=range(1, 10_000))
        elif isinstance(fact, Noticed) and fact.code == "checkpoint_failed":
            assert self.server.num_failures > 0
            self.server.arm()


def test_training_goes_on_over_an_error_and_one_at_its_end_is_a_storage_failure(
    bucket: str, server: FailingServer, tmp_path: Path
) -> None:
    told = recipe(
        model={"kind": "mlp", "hidden": [8]}, checkpoint={"every_steps": 7}, training={"epochs": 2}
    )
    spec = launch(told, tmp_path).model_copy(update={"storage_url": bucket})
    seat = Seat(0, 1, torch.device("cpu"))
    recorder = Breaking(server=server, breaks_after=7)
    whole = train(spec.model_copy(update={"job_id": JobId("whole")}), seat, recorder)
    assert [ref.step for ref in reversed(recorder.refs)] == [7, 21, 28]
    notices = [one for one in recorder.of(Noticed) if one.code == "checkpoint_failed"]
    assert len(notices) == 1

    recorder = Breaking(server=server, breaks_after=21)
    with pytest.raises(StorageFailure) as caught:
        train(spec, seat, recorder)
    assert caught.value.kind is FailureKind.STORAGE
    assert server.num_failures > 0
    server.arm()
    again = run_alone(spec.model_copy(update={"attempt": 2, "resume": tuple(recorder.refs)}))
    assert again.recorder.steps == list(range(22, 29))
    assert again.outcome.metrics == whole.metrics
