"""What a gang asks for reads as a sentence, and spans of time are read as people write them."""

import pytest
from pydantic import TypeAdapter, ValidationError

from service.domain.resources import Resources, SpanSeconds

SPAN = TypeAdapter(SpanSeconds)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90s", 90.0),
        ("15m", 900.0),
        ("2h", 7200.0),
        ("7d", 604_800.0),
        ("1.5h", 5400.0),
        (30, 30.0),
    ],
)
def test_a_span_is_read_in_its_unit(written: object, seconds: float) -> None:
    assert SPAN.validate_python(written) == seconds


@pytest.mark.parametrize("written", ["", "2", "2 weeks", "-3m", "h", "0s", -1, 0])
def test_what_is_no_span_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        SPAN.validate_python(written)


def test_a_gang_reads_as_people_would_say_it() -> None:
    assert str(Resources()) == "1 worker x (1 CPU, 0 GPUs)"
    assert str(Resources(workers=2, cpus_per_worker=4, gpus_per_worker=1)) == (
        "2 workers x (4 CPUs, 1 GPU)"
    )


@pytest.mark.parametrize("field", ["workers", "cpus_per_worker"])
def test_a_gang_has_workers_and_every_worker_a_cpu(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Resources.model_validate({field: 0})
