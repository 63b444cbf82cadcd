"""Reading back: the same bits, nothing that was changed, no code that someone planted."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from tests.workers.checkpoint.failing_files import FailingFiles
from tests.workers.checkpoint.saving import (
    STATE,
    delete,
    overwrite,
    read,
    saved,
    some_tensors,
)
from workers.checkpoint.reader import load, newest_whole, peek_state
from workers.contract.manifest import CheckpointDamaged
from workers.contract.outcome import StorageFailure
from workers.contract.reports import CheckpointRef

ALL_FILES = [".metadata", "__0_0.distcp", "manifest.json", "rank-0.pt", "state.json"]


def test_everything_comes_back_as_it_was(storage_url: str) -> None:
    ref = saved(storage_url, tensors=some_tensors(3.0))
    tensors = some_tensors(0.0)
    weight = tensors["model"]["0.weight"]

    loaded = load(storage_url, ref, tensors, rank=0)

    assert (loaded.ref, loaded.state) == (ref, STATE)
    torch.testing.assert_close(tensors, some_tensors(3.0), rtol=0, atol=0)
    assert tensors["model"]["0.weight"] is weight
    assert torch.equal(loaded.rank_tensors["rng"], torch.arange(16, dtype=torch.uint8))


def test_the_state_can_be_read_without_the_tensors(storage_url: str) -> None:
    ref = saved(storage_url)
    delete(storage_url, ref, "__0_0.distcp")

    assert peek_state(storage_url, ref) == STATE


def test_a_file_too_many_changes_nothing(storage_url: str) -> None:
    ref = saved(storage_url, tensors=some_tensors(3.0))
    other = saved(storage_url, step=8, tensors=some_tensors(4.0))
    for name in ("__1_0.distcp", "rank-1.pt", "manifest.json.part"):
        overwrite(storage_url, ref, name, read(storage_url, other, "__0_0.distcp"))
    tensors = some_tensors(0.0)

    loaded = load(storage_url, ref, tensors, rank=1)

    torch.testing.assert_close(tensors, some_tensors(3.0), rtol=0, atol=0)
    assert loaded.rank_tensors == {}  # that file is not the manifest's
    assert newest_whole(storage_url, [ref]) == (ref, ())


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_resumed_net_takes_the_same_next_step(kind: str, tmp_path: Path) -> None:
    def build(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        net = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        )
        if kind == "adam":
            return net, torch.optim.Adam(net.parameters(), lr=0.01)
        return net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def step(net: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float:
        inputs = torch.linspace(-1, 1, 24).reshape(6, 4)
        loss = net(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    net, optimizer = build(seed=1)
    step(net, optimizer)
    optimizer.param_groups[0]["lr"] = 0.03
    model_state, optimizer_state = get_state_dict(net, optimizer)
    ref = saved(str(tmp_path), tensors={"model": model_state, "optimizer": optimizer_state})

    other, other_optimizer = build(seed=2)
    model_state, optimizer_state = get_state_dict(other, other_optimizer)
    tensors: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state}
    load(str(tmp_path), ref, tensors, rank=0)
    set_state_dict(
        other,
        other_optimizer,
        model_state_dict=tensors["model"],
        optim_state_dict=tensors["optimizer"],
    )

    for _ in range(3):
        assert step(net, optimizer) == step(other, other_optimizer)
    for name, weight in net.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


def test_a_rank_that_had_no_tensors_gets_none(storage_url: str) -> None:
    ref = saved(storage_url, rank_tensors={})

    assert load(storage_url, ref, some_tensors(), rank=0).rank_tensors == {}


# --- damage ---------------------------------------------------------------------------------------


def _flip_first(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


def _flip_last(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 0x80])


def _truncate(content: bytes) -> bytes:
    return content[:-1]


def _lengthen(content: bytes) -> bytes:
    return content + b"\0"


@pytest.mark.parametrize("damage", [_flip_first, _flip_last, _truncate, _lengthen])
@pytest.mark.parametrize("name", ALL_FILES)
def test_a_changed_file_is_found_before_anything_is_loaded(
    name: str, damage: Callable[[bytes], bytes], storage_url: str
) -> None:
    ref = saved(storage_url, tensors=some_tensors(3.0))
    overwrite(storage_url, ref, name, damage(read(storage_url, ref, name)))

    _assert_damaged(storage_url, ref, name)


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_missing_file_is_found_before_anything_is_loaded(name: str, storage_url: str) -> None:
    ref = saved(storage_url, tensors=some_tensors(3.0))
    delete(storage_url, ref, name)

    _assert_damaged(storage_url, ref, name)


def test_another_manifest_than_the_recorded_one_is_refused(storage_url: str) -> None:
    ref = saved(storage_url).model_copy(update={"manifest_sha256": "0" * 64})

    _assert_damaged(storage_url, ref, "manifest.json")


def test_a_stale_attempts_whole_checkpoint_in_the_place_of_ours_is_refused(
    tmp_path: Path,
) -> None:
    stale = saved(str(tmp_path), attempt=1, tensors=some_tensors(3.0))
    ref = saved(str(tmp_path), attempt=2, tensors=some_tensors(3.0))
    shutil.rmtree(tmp_path / ref.path)
    (tmp_path / stale.path).rename(tmp_path / ref.path)

    _assert_damaged(str(tmp_path), ref, "manifest.json")


def test_a_checkpoint_that_never_was_is_damaged(storage_url: str) -> None:
    ref = saved(storage_url).model_copy(update={"path": "jobs/none/checkpoints/none"})

    _assert_damaged(storage_url, ref, "manifest.json")


def _assert_damaged(storage_url: str, ref: CheckpointRef, name: str) -> None:
    tensors = some_tensors(0.0)
    with pytest.raises(CheckpointDamaged, match=name):
        load(storage_url, ref, tensors, rank=0)
    torch.testing.assert_close(tensors, some_tensors(0.0), rtol=0, atol=0)
    found, sentences = newest_whole(storage_url, [ref])
    assert found is None
    assert name in sentences[0]
    if name in ("manifest.json", "state.json"):
        with pytest.raises(CheckpointDamaged, match=name):
            peek_state(storage_url, ref)


@pytest.mark.parametrize(
    "asked",
    [
        {"model": {"unheard": torch.zeros(3, 4)}},
        {"model": {"0.weight": torch.zeros(4, 3)}},
    ],
    ids=["name", "shape"],
)
def test_tensors_that_do_not_fit_are_refused(
    asked: dict[str, dict[str, torch.Tensor]], storage_url: str
) -> None:
    ref = saved(storage_url)

    with pytest.raises(CheckpointDamaged, match="does not fit"):
        load(storage_url, ref, asked, rank=0)


# --- which one ------------------------------------------------------------------------------------


def test_the_newest_whole_one_is_chosen_and_the_others_are_told_of(storage_url: str) -> None:
    newest, middle, oldest = (saved(storage_url, step=step) for step in (30, 20, 10))
    content = read(storage_url, newest, "__0_0.distcp")
    overwrite(storage_url, newest, "__0_0.distcp", _flip_last(content))
    delete(storage_url, middle, "manifest.json")

    found, sentences = newest_whole(storage_url, [newest, middle, oldest])

    assert found == oldest
    assert len(sentences) == 2
    assert newest.path in sentences[0]
    assert middle.path in sentences[1]


def test_a_whole_one_is_chosen_without_a_word(storage_url: str) -> None:
    newest, oldest = (saved(storage_url, step=step) for step in (20, 10))

    assert newest_whole(storage_url, [newest, oldest]) == (newest, ())
    assert newest_whole(storage_url, []) == (None, ())


def test_an_outage_is_no_damage(tmp_path: Path) -> None:
    ref = saved(str(tmp_path))
    url = f"failing://{tmp_path}"
    FailingFiles.arm(read=True)

    with pytest.raises(StorageFailure, match="expired"):
        newest_whole(url, [ref])
    with pytest.raises(StorageFailure, match="expired"):
        peek_state(url, ref)
    with pytest.raises(StorageFailure, match="expired"):
        load(url, ref, some_tensors(), rank=0)
    assert FailingFiles.num_failures == 3


def test_telling_which_one_is_whole_needs_no_torch() -> None:
    _assert_not_imported(
        "torch", "import workers.checkpoint.reader as r; r.newest_whole('memory://x', [])"
    )


def test_the_writer_and_the_reader_import_dcp_only_when_it_is_needed() -> None:
    _assert_not_imported(
        "torch.distributed.checkpoint",
        "import workers.checkpoint.reader, workers.checkpoint.writer",
    )


def _assert_not_imported(module: str, code: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print({module!r} in sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ran.stdout.strip() == "False"


def test_storage_that_fails_at_any_call_of_a_load_is_no_damage(tmp_path: Path) -> None:
    FailingFiles.arm()
    ref = saved(str(tmp_path))
    load(f"failing://{tmp_path}", ref, some_tensors(0.0), rank=0)
    num_calls = FailingFiles.num_calls
    assert num_calls > len(ALL_FILES)
    for call in range(1, num_calls + 1):
        FailingFiles.arm(call=call)
        with pytest.raises(StorageFailure, match="503 Slow Down"):
            load(f"failing://{tmp_path}", ref, some_tensors(0.0), rank=0)
