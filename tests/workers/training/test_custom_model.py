"""The example of a net of one's own learns the digits, from its packed code."""

import hashlib
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.cli.packing import pack
from tests.workers.training.attempts import launch, run_alone, saved_tensors
from workers.contract.code import pack_file, pack_name
from workers.contract.recipe import Recipe

EXAMPLE = Path(__file__).parents[3] / "deploy" / "examples" / "custom-model"


@pytest.fixture(autouse=True)
def _leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code is unpacked into the test's own folder, and found by Python for the test's time."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.delitem(sys.modules, "net", raising=False)
    importlib.invalidate_caches()


def _recipe(storage: Path) -> Recipe:
    """The example's, its code packed and brought to storage as the command line and server do."""
    written: dict[str, Any] = yaml.safe_load((EXAMPLE / "job.yaml").read_text())
    content = pack(EXAMPLE / written["code"])
    sha256 = hashlib.sha256(content).hexdigest()
    file = storage / pack_file(sha256)
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    of_recipe = {key: value for key, value in written.items() if key in Recipe.model_fields}
    return Recipe.model_validate({**of_recipe, "code": pack_name(sha256)})


def test_the_example_learns_the_digits_and_its_layers_bear_their_names(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    attempt = run_alone(launch(_recipe(storage), storage))
    assert attempt.outcome.metrics["test_error"] < 10.0
    saved = saved_tensors(storage, attempt.recorder.refs[0])
    layers = {name.split(".")[2] for name in saved if name.startswith("net.layers.")}
    assert layers == {"edges", "strokes", "shapes"}
    assert Path(sys.modules["net"].__file__ or "").is_relative_to(tmp_path)
