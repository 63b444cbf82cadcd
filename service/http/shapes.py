"""Records as JSON: the answers' shapes are the records' own."""

from functools import cache
from typing import Any

from pydantic import TypeAdapter


@cache
def _adapter(kind: type[object]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def to_json(record: Any) -> Any:
    """A record, or a list of them, as plain JSON values."""
    if isinstance(record, list | tuple):
        return [to_json(one) for one in record]
    return _adapter(record.__class__).dump_python(record, mode="json")
