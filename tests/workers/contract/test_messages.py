"""Messages between the halves: they survive the wire, and readers outlive newer writers."""

import importlib
import json
import pkgutil
from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError

import workers.contract
from tests.workers.contract.examples import AT, EXAMPLES, FACT, REF
from workers.contract.inventory import NodeSeen, Sync
from workers.contract.launch import LaunchSpec
from workers.contract.outcome import (
    ConfigFailure,
    FailureKind,
    NonFiniteFailure,
    Outcome,
    Result,
    StorageFailure,
    TrainingFailure,
)
from workers.contract.reports import (
    FACTS_PER_REPORT_MAX,
    NOTICE_CODE_CHARS_MAX,
    Fact,
    Noticed,
    Progress,
    Report,
    Unknown,
)
from workers.contract.wire import CONTRACT_VERSION, Message

every_message = pytest.mark.parametrize(
    "message", EXAMPLES, ids=lambda message: type(message).__name__
)


def test_there_is_an_example_of_every_message() -> None:
    for module in pkgutil.iter_modules(workers.contract.__path__):
        importlib.import_module(f"workers.contract.{module.name}")

    known = {
        kind for kind in Message.__subclasses__() if kind.__module__.startswith("workers.contract.")
    }

    assert {type(example) for example in EXAMPLES} == known


@every_message
def test_a_message_survives_the_wire(message: Message) -> None:
    assert type(message).model_validate_json(message.model_dump_json()) == message


@every_message
def test_an_example_fills_in_every_field(message: Message) -> None:
    fields = type(message).model_fields.items()
    defaults = {
        name
        for name, field in fields
        if not field.is_required() and getattr(message, name) == field.default
    }

    assert defaults <= {"version", "fact"}


@every_message
def test_keys_of_a_newer_version_are_ignored_at_any_depth(message: Message) -> None:
    newer = _with_unknown_keys(json.loads(message.model_dump_json()))

    assert type(message).model_validate(newer) == message


def _with_unknown_keys(value: Any, name: str = "") -> Any:
    """Add a key to every object but those whose keys are data or are written by people."""
    if isinstance(value, list):
        return [_with_unknown_keys(item) for item in value]
    if not isinstance(value, dict) or name in ("metrics", "labels", "env", "recipe"):
        return value
    known = {key: _with_unknown_keys(item, key) for key, item in value.items()}
    return known | {"of_a_newer_version": {"x": 1}}


@every_message
def test_a_message_cannot_be_changed(message: Message) -> None:
    name = next(iter(type(message).model_fields))

    with pytest.raises(ValidationError, match="frozen"):
        setattr(message, name, getattr(message, name))


@every_message
def test_what_opens_a_conversation_bears_the_version(message: Message) -> None:
    if "version" in type(message).model_fields:
        assert json.loads(message.model_dump_json())["version"] == CONTRACT_VERSION


def test_the_launch_of_a_wrong_recipe_is_refused() -> None:
    launch = next(message for message in EXAMPLES if isinstance(message, LaunchSpec))
    said = json.loads(launch.model_dump_json())
    said["recipe"]["model"]["hiden"] = 1

    with pytest.raises(ValidationError, match=r"recipe\.model\.mlp\.hiden"):
        LaunchSpec.model_validate(said)


def test_the_world_size_is_the_number_of_ranks() -> None:
    launch = next(message for message in EXAMPLES if isinstance(message, LaunchSpec))

    assert launch.world_size == len(launch.ranks) == 2


def test_a_fact_is_told_apart_by_its_name() -> None:
    said = json.loads(FACT.model_dump_json())

    assert type(Fact.model_validate(said).body) is type(FACT.body)
    said["body"]["fact"] = "gossip"  # a newer gang's: not understood, but no reason to refuse it
    assert Fact.model_validate(said).body == Unknown(fact="gossip")


def test_an_instant_keeps_its_zone_and_a_naive_one_is_refused() -> None:
    assert Fact.model_validate_json(FACT.model_dump_json()).at == AT
    with pytest.raises(ValidationError):
        Fact(seq=1, at=AT.replace(tzinfo=None), body=FACT.body)
    assert isinstance(FACT.at, datetime)


def test_facts_are_counted_from_one() -> None:
    with pytest.raises(ValidationError):
        Fact(seq=0, at=AT, body=FACT.body)


def test_a_report_holds_so_many_facts_and_no_more() -> None:
    facts = tuple(
        Fact(seq=seq, at=AT, body=Noticed(code="c", sentence="s"))
        for seq in range(1, FACTS_PER_REPORT_MAX + 2)
    )

    assert len(Report(facts=facts[:-1]).facts) == FACTS_PER_REPORT_MAX
    with pytest.raises(ValidationError):
        Report(facts=facts)


def test_a_notice_has_a_word_that_the_service_can_keep() -> None:
    Noticed(code="c" * NOTICE_CODE_CHARS_MAX, sentence="s")
    with pytest.raises(ValidationError):
        Noticed(code="c" * (NOTICE_CODE_CHARS_MAX + 1), sentence="s")


def test_an_agent_names_each_node_once() -> None:
    node = NodeSeen(node_id="n", host="h", cpus=1, gpus=0)
    with pytest.raises(ValidationError, match="named twice"):
        Sync(cluster_id="c", boot_id="b", nodes=(node, node), gangs=())


def test_a_loss_that_is_not_finite_is_told_as_none() -> None:
    progress = next(message for message in EXAMPLES if isinstance(message, Progress))
    lost = progress.model_copy(update={"loss": None, "eta_seconds": None})

    assert Progress.model_validate_json(lost.model_dump_json()) == lost


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (TrainingFailure, FailureKind.USER_ERROR),
        (ConfigFailure, FailureKind.CONFIG),
        (StorageFailure, FailureKind.STORAGE),
        (NonFiniteFailure, FailureKind.NON_FINITE),
    ],
)
def test_a_failure_whose_kind_is_known_bears_it(
    failure: type[TrainingFailure], kind: FailureKind
) -> None:
    assert failure("It happened.").kind is kind


def test_a_reference_can_stand_in_a_set() -> None:
    assert len({REF, REF.model_copy()}) == 1


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_number_that_json_lacks_survives_its_way(value: float) -> None:
    outcome = Outcome(result=Result.SUCCEEDED, metrics={"test_loss": value})
    back = Outcome.model_validate_json(outcome.model_dump_json())
    assert repr(back.metrics["test_loss"]) == repr(value)
