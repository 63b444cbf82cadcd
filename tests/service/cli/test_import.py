"""`strata checkpoints import` as a process: it says what to write into a job's file."""

import json
from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file

from service.domain.spec import JobSpec
from tests.service.cli.test_commands import EXAMPLES, strata
from workers.contract.model_spec import ResnetModel
from workers.models.catalog import build_net
from workers.models.layered import seeded
from workers.models.mapping import published_names

RESNET_18 = ResnetModel(kind="resnet", depth=18)


def test_imported_weights_can_be_named_in_a_jobs_file_as_it_was_said(tmp_path: Path) -> None:
    net = build_net(RESNET_18, (3, 8, 8), 5, seeded(0)).state_dict()
    file = tmp_path / "net.safetensors"
    save_file({name: net[ours] for name, ours in published_names(RESNET_18).items()}, file)
    words = ("checkpoints", "import", str(file), "--to", "weights/r.safetensors", "--classes", "3")

    done = strata(tmp_path, *words, "--model", "resnet18")
    assert done.returncode == 0, done.stderr
    first, _, said = done.stdout.partition("\n")
    assert "120 tensors; left out: head.linear.weight, head.linear.bias" in first
    job = yaml.safe_load((EXAMPLES / "digits-shallow.yaml").read_text()) | yaml.safe_load(said)
    spec = JobSpec.model_validate(job)
    assert spec.model == RESNET_18
    init = spec.init_from
    assert init is not None
    assert (init.weights, init.partial) == ("weights/r.safetensors", True)
    assert "data.normalize: {mean: [0.485, 0.456, 0.406]" in said
    assert len(load_file(tmp_path / "storage" / "weights" / "r.safetensors")) == 120

    again = ("checkpoints", "import", str(file), "--to", "weights/again.safetensors", "-o", "json")
    answer = json.loads(strata(tmp_path, *again, "--model", "resnet18").stdout)
    assert (answer["num_tensors"], answer["left_out"]) == (122, [])
    assert answer["model"] == {"kind": "resnet", "depth": 18}

    refused = strata(tmp_path, *words, "--model", "resnet50")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "layer1.0.conv3.weight is missing" in refused.stderr
