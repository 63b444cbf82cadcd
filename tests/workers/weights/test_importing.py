"""Published weights come into storage under our names, and a job begins with exactly them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.workers.training.attempts import launch, recipe, run_alone, saved_tensors
from workers.contract.model_spec import InceptionModel, ResnetModel
from workers.contract.outcome import ConfigFailure
from workers.contract.reports import Noticed
from workers.models.catalog import build_net
from workers.models.layered import seeded
from workers.models.mapping import HEAD, published_names
from workers.weights.importing import Imported, import_weights

RESNET_18 = ResnetModel(kind="resnet", depth=18)
IMAGES = {"source": "npz", "path": "images.npz", "test_fraction": 0.2}
STILL = {"epochs": 1, "batch_size": 4, "optimizer": {"name": "sgd", "lr": 1e-30}}
CLASSES = 5


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as collections of weights have it: a resnet18 of five classes."""
    net = build_net(RESNET_18, (3, 8, 8), CLASSES, seeded(77)).state_dict()
    file = tmp_path_factory.mktemp("published") / "resnet18.safetensors"
    save_file({name: net[ours] for name, ours in published_names(RESNET_18).items()}, file)
    return file


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage root with images of three classes."""
    draw = np.random.default_rng(0)
    x = draw.random((20, 3, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "images.npz", x=x, y=np.arange(20) % 3)
    return tmp_path


def _imported(published: Path, storage: Path, classes: int | None = None) -> Imported:
    return import_weights(published, "resnet18", classes, "weights/r.safetensors", str(storage))


def _begun(storage: Path, **init: Any) -> tuple[dict[str, Tensor], str]:
    model = {"kind": "resnet", "depth": 18}
    written = {"weights": "weights/r.safetensors", "partial": True} | init
    job = recipe(data=IMAGES, model=model, training=STILL, init_from=written)
    attempt = run_alone(launch(job, storage))
    (notice,) = [one for one in attempt.recorder.of(Noticed) if one.code == "initialized_from"]
    return saved_tensors(storage, attempt.recorder.refs[0]), notice.sentence


def _assert_begins_with(saved: dict[str, Tensor], published: Path) -> None:
    theirs = load_file(published)
    names = published_names(RESNET_18)
    same = [
        name
        for name in theirs
        if "running" not in name and "num_batches" not in name and name not in HEAD
    ]
    assert len(same) == 60  # 20 convolutions, gains and biases
    for name in same:
        torch.testing.assert_close(saved[f"net.{names[name]}"], theirs[name], rtol=0, atol=1e-12)


def test_a_job_begins_with_imported_weights_and_a_head_of_its_own(
    published: Path, storage: Path
) -> None:
    done = _imported(published, storage, classes=3)
    assert set(done.left_out) == set(HEAD.values())
    saved, sentence = _begun(storage, sha256=done.sha256)
    _assert_begins_with(saved, published)
    assert saved["net.head.linear.weight"].shape == (3, 512)
    assert sentence == (
        "Begins with 120 of 122 tensors of weights/r.safetensors; head.linear.weight, "
        "head.linear.bias begin at random."
    )


def test_other_classes_are_refused_unless_a_part_is_enough(published: Path, storage: Path) -> None:
    assert _imported(published, storage).left_out == ()
    with pytest.raises(ConfigFailure, match="partial: true"):
        _begun(storage, partial=False)
    saved, sentence = _begun(storage)
    _assert_begins_with(saved, published)
    assert "head.linear.weight" in sentence


def test_a_file_that_is_missing_outside_changed_or_none_is_refused_in_words(
    published: Path, storage: Path
) -> None:
    done = _imported(published, storage)
    for init, said in (
        ({"weights": "weights/none.safetensors"}, "there is no file"),
        ({"weights": "/etc/r.safetensors"}, "lies outside"),
        ({"weights": "images.npz"}, "is no safetensors file"),
        ({"weights": "odd://w", "sha256": done.sha256}, "lies outside"),
        ({"sha256": "0" * 64}, "it was changed"),
    ):
        with pytest.raises(ConfigFailure, match=said):
            _begun(storage, **init)


def test_a_torch_file_gives_the_same_as_safetensors(published: Path, tmp_path: Path) -> None:
    torch.save(load_file(published), tmp_path / "resnet18.pth")
    first = _imported(published, tmp_path)
    import_weights(tmp_path / "resnet18.pth", "resnet18", None, "again.safetensors", str(tmp_path))
    one = load_file(tmp_path / "weights/r.safetensors")
    other = load_file(tmp_path / "again.safetensors")
    assert first.num_tensors == len(one) == 122
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_inception_is_taken_with_its_second_head_and_without(tmp_path: Path) -> None:
    for auxiliary, num_tensors in ((True, 580), (False, 566)):
        model = InceptionModel(kind="inception_v3", auxiliary=auxiliary)
        net = build_net(model, (3, 75, 75), 2, seeded(0)).state_dict()
        file = tmp_path / f"{auxiliary}.safetensors"
        save_file({name: net[ours] for name, ours in published_names(model).items()}, file)
        to = f"ours-{auxiliary}.safetensors"
        done = import_weights(file, "inception_v3", None, to, str(tmp_path))
        assert (done.num_tensors, done.left_out) == (num_tensors, ())


class Hostile:
    """Writes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_file_that_holds_more_than_weights_is_refused_and_nothing_in_it_runs(
    tmp_path: Path,
) -> None:
    for save, name in ((torch.save, "a.pt"), (_pickled, "b.pt")):
        save({"fc.weight": Hostile(tmp_path / "ran")}, tmp_path / name)
        with pytest.raises(ConfigFailure, match="is no file of weights alone"):
            import_weights(tmp_path / name, "resnet18", None, "x.safetensors", str(tmp_path))
    torch.save({"fc.weight": [1]}, tmp_path / "c.pt")
    with pytest.raises(ConfigFailure, match="something else than tensors"):
        import_weights(tmp_path / "c.pt", "resnet18", None, "x.safetensors", str(tmp_path))
    (tmp_path / "d.safetensors").write_text("none")
    with pytest.raises(ConfigFailure, match="is no file of weights: "):
        import_weights(tmp_path / "d.safetensors", "resnet18", None, "x", str(tmp_path))
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "a.pt",
        "b.pt",
        "c.pt",
        "d.safetensors",
    ]


def _pickled(value: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(value))


def test_what_jobs_may_begin_from_is_not_replaced_and_nothing_is_written_elsewhere(
    published: Path, tmp_path: Path
) -> None:
    _imported(published, tmp_path)
    before = (tmp_path / "weights/r.safetensors").read_bytes()
    with pytest.raises(ConfigFailure, match="is there already"):
        _imported(published, tmp_path)
    assert (tmp_path / "weights/r.safetensors").read_bytes() == before
    with pytest.raises(ConfigFailure, match="lies outside"):
        import_weights(published, "resnet18", None, "../r.safetensors", str(tmp_path))
    with pytest.raises(ConfigFailure, match="known are resnet18, "):
        import_weights(published, "vgg", None, "v.safetensors", str(tmp_path))
