"""Rows and records: what is kept of a spec, and what tells two specs apart."""

import json

import pytest

from service.domain.spec import JobSpec
from service.store.engine import json_text
from service.store.rows import spec_json, spec_sha256
from tests.contracts.lives import a_spec

INFINITY = float("inf")


def test_a_spec_comes_back_from_its_json_as_it_was() -> None:
    spec = a_spec(
        model={"kind": "mlp", "hidden": [8], "activation": "sigmoid"},
        pretraining={"method": "rbm", "epochs": 2, "lr": 0.1, "batch_size": 10},
        max_duration="90m",
        labels={"team": "vision"},
        resources={"workers": 3},
    )
    assert JobSpec.model_validate(json.loads(json.dumps(spec_json(spec)))) == spec


def test_specs_that_mean_the_same_have_one_digest() -> None:
    assert spec_sha256(a_spec(max_duration="90m")) == spec_sha256(a_spec(max_duration="5400s"))
    assert spec_sha256(a_spec(queue="default")) == spec_sha256(a_spec())
    one, two = a_spec(labels={"a": "1", "b": "2"}), a_spec(labels={"b": "2", "a": "1"})
    assert spec_sha256(one) == spec_sha256(two)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"queue": "night"},
        {"labels": {"a": "1"}},
        {"model": {"kind": "mlp", "hidden": [9]}},
    ],
)
def test_specs_that_differ_have_other_digests(changes: dict[str, object]) -> None:
    assert spec_sha256(a_spec(**changes)) != spec_sha256(a_spec())


def test_json_has_no_infinities_and_leaves_everything_else_alone() -> None:
    plain = {"a": [1, 2.5, None, True, "inf"], "b": {"c": "é"}}
    assert json.loads(json_text(plain)) == plain
    nested = json.loads(json_text({"a": [INFINITY, {"b": -INFINITY}], "c": float("nan"), "d": 1.5}))
    assert nested == {"a": ["inf", {"b": "-inf"}], "c": "nan", "d": 1.5}
    assert float(nested["a"][1]["b"]) == -INFINITY
