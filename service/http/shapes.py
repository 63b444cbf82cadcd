"""Records as JSON: the answers' shapes are the records' own, with a server and without one."""

import json
from functools import cache
from typing import Any

from pydantic import TypeAdapter


@cache
def _adapter(kind: type[object]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def to_json(record: Any) -> Any:
    """A record, or a list of them, as plain JSON values; what a diverged net measured is None."""
    if isinstance(record, list | tuple):
        return [to_json(one) for one in record]
    # Through the text: only there does pydantic write infinities as JSON has to.
    return json.loads(_adapter(record.__class__).dump_json(record))
