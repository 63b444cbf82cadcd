"""Wrong job files get one sentence with the line, the path and the remedy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.errors import BadInput
from service.domain.spec import JobSpec
from service.domain.specfile import SPEC_BYTES_MAX, SPEC_DEPTH_MAX, check_spec, read_jobs
from workers.contract.model_spec import MlpModel

GOOD = """\
name: digits-rbm
resources: {workers: 2, cpus_per_worker: 1, gpus_per_worker: 0}
data: {source: digits, test_fraction: 0.2, scale: unit}
model: {kind: mlp, hidden: [100, 100], activation: sigmoid, init: lecun_uniform}
pretraining:
  method: rbm
  epochs: 40
  lr: 0.1
training:
  epochs: 100
  batch_size: 100
  optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
seed: 0
max_duration: 2h
"""


def mlp(spec: JobSpec) -> MlpModel:
    assert isinstance(spec.model, MlpModel)
    return spec.model


def read_spec(text: str, origin: str) -> JobSpec:
    """The one job of a file."""
    [spec] = read_jobs(text, origin).specs
    return spec


def test_a_good_job_is_read_whole() -> None:
    spec = read_spec(GOOD, "job.yaml")
    assert spec.name == "digits-rbm"
    assert mlp(spec).hidden == (100, 100)
    assert spec.max_duration == 7200.0
    assert spec.recipe.pretraining == spec.pretraining
    assert not isinstance(spec.recipe, JobSpec)


@pytest.mark.parametrize(
    ("good", "bad", "refusal"),
    [
        ("  epochs: 40", "  epoch: 40", "job.yaml:7 pretraining.epoch: is not a known key; did"),
        ("kind: mlp", "kind: cnn", 'job.yaml:4 model.kind: is "cnn", which is not known; write'),
        ("kind: mlp, ", "", "job.yaml:4 model.kind: is missing; add it"),
        ("hidden:", "hiden:", "job.yaml:4 model.hiden: is not a known key; did you mean `hidden`"),
        ("name: digits-rbm\n", "", "job.yaml:1 name: is missing; add it"),
        ("method: rbm", "method: dbn", 'job.yaml:6 pretraining.method: is "dbn", which is not'),
        ("source: digits", "source: mnist", "one of: digits, idx, npz"),
        ("lr: 0.1\n", "lr: high\n", 'job.yaml:8 pretraining.lr: is "high": input should be a'),
        ("lr: 0.1\n", "lr: .nan\n", "job.yaml:8 pretraining.lr: is nan: input should be"),
        ("gpus_per_worker: 0", "gpus_per_worker: 2", "is 2: a worker trains on one GPU; ask for"),
        ("workers: 2", "workers: 0", "job.yaml:2 resources.workers: is 0: input should be"),
        ("workers: 2", "workers: 101", "job.yaml:11 training.batch_size: is 100, but every one"),
        ("[100, 100]", "[100, -1]", "job.yaml:4 model.hidden.1: is -1: input should be greater"),
        ("epochs: 40", "epochs: [1, 2, 3]", "job.yaml:7 pretraining.epochs: lists 3 values for 2"),
        ("max_duration: 2h", "max_duration: soon", "write a span of time like 90s, 15m, 2h or 7d"),
        ("scale: unit", "scale: standardize", "job.yaml:3 data.scale: an rbm reads inputs in"),
        ("name: sgd", "name: lion", 'job.yaml:12 training.optimizer.name: is "lion", which'),
        ("momentum: 0.9", "nesterov: true", "job.yaml:12 training.optimizer.nesterov: nesterov"),
        ("seed: 0", "seed: [0", "is not YAML: "),
        ("seed: 0", "seed: 0\nseed: 1", "job.yaml:14 seed: stands twice; remove one of the two"),
        ("seed: 0", "seed: &s 0\nretries: *s", "job.yaml:13: uses a YAML alias"),
        ("seed: 0", "env: {a b: c}", "job.yaml:13 env.a b: is"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_remedy(good: str, bad: str, refusal: str) -> None:
    assert good in GOOD
    with pytest.raises(BadInput) as caught:
        read_spec(GOOD.replace(good, bad, 1), "job.yaml")
    assert refusal in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n- b",
        "just words",
        "a: b: c",
        "\x00",
        "? [a]: b",
        "a: 2026-99-99",
        "a: !!python/x 1",
    ],
)
def test_what_is_no_job_at_all_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_spec(text, "job.yaml")
    assert "\n" not in str(caught.value)


def test_a_text_beyond_the_limits_is_refused() -> None:
    with pytest.raises(BadInput, match="is larger than"):
        read_spec("#" * (SPEC_BYTES_MAX + 1), "job.yaml")
    deep = "{a: " * (SPEC_DEPTH_MAX + 1) + "1" + "}" * (SPEC_DEPTH_MAX + 1)
    with pytest.raises(BadInput, match="nests deeper"):
        read_spec(f"name: {deep}", "job.yaml")


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.text() | st.lists(st.none())))
def test_no_value_is_answered_by_anything_but_a_refusal(value: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        check_spec(value)
