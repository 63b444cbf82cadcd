"""One job file, many jobs: a `matrix` of axes and arms becomes its members, plain job values.

    matrix:
      seed: [0, 1, 2]                     # an axis: a key of the job, dotted where it lies deeper
      training.optimizer.lr: [0.1, 0.01]  # another one
      include:                            # the arms: each has a name and what it changes
        - {name: shallow, model: {hidden: [100]}}
        - {name: deep, model: {hidden: [100, 100, 100]}}

Every arm is combined with every value of every axis. An arm is laid over the rest of the file key
by key; where it names another kind of thing (`kind`, `method`, `name`, `source`) it replaces the
whole mapping, since the other kind's options would mean nothing to it.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.domain.errors import BadInput

MATRIX = "matrix"
INCLUDE = "include"
SEED = "seed"
MATRIX_MAX = 256  # jobs of one file: what a person can still read as one table
LABEL_MATRIX = "matrix"  # the label with the file's name
LABEL_ARM = "arm"  # the label that members share which differ in their seed alone
TAGS = ("kind", "method", "name", "source")  # that say which options a mapping has

SCHEMA: dict[str, Any] = {
    "title": "Matrix",
    "description": "Axes, each a key of the job with a list of values, and arms under `include`.",
    "type": "object",
    "minProperties": 1,
    "properties": {
        INCLUDE: {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}},
            },
        }
    },
    "additionalProperties": {"type": "array", "minItems": 1},
}
"""The JSON schema of `matrix`, for editors."""


@dataclass(frozen=True, slots=True)
class Member:
    """One job of a matrix, not yet checked."""

    suffix: str  # of its name: what tells it from the others
    value: dict[str, Any]  # the job, as if it had been written out
    places: tuple[str, ...]  # of the text that made it: "matrix.include.3", "matrix.seed"


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one arm, or one value of an axis, does to the job."""

    word: str  # in the member's name
    is_seed: bool
    change: dict[str, Any]
    place: str


def members(value: Mapping[str, Any]) -> list[Member]:
    """Return the jobs that a file with a `matrix` describes, in its order, the last axis fastest.

    Raises:
        BadInput: the matrix is empty, too large, badly written, or names two members alike.
    """
    matrix = value[MATRIX]
    if not isinstance(matrix, Mapping) or not matrix:
        raise BadInput(
            "is a mapping of axes to lists", place=MATRIX, remedy="write e.g. `seed: [0, 1, 2]`"
        )
    rows = [_arms(matrix[INCLUDE])] if INCLUDE in matrix else []
    rows += [_axis(path, values) for path, values in matrix.items() if path != INCLUDE]
    count = math.prod(map(len, rows))
    if count > MATRIX_MAX:
        raise BadInput(
            f"makes {count} jobs; {MATRIX_MAX} are allowed",
            place=MATRIX,
            remedy="shorten an axis, or write several files",
        )
    base = {key: part for key, part in value.items() if key != MATRIX}
    _refuse_own_labels(base)
    made = [_member(base, pieces) for pieces in itertools.product(*rows)]
    seen: set[str] = set()
    for member in made:
        if member.suffix in seen:
            raise BadInput(
                f'makes two jobs named "{member.suffix}"',
                place=member.places[0],
                remedy="give each arm a name and each axis values of its own",
            )
        seen.add(member.suffix)
    return made


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `change` laid over it, mapping by mapping; neither is touched."""
    return dict(base) | {key: _laid(base.get(key), new) for key, new in change.items()}


def _laid(old: object, new: object) -> object:
    if isinstance(old, Mapping) and isinstance(new, Mapping) and not _is_other(old, new):
        return merged(old, new)
    return new


def _is_other(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return any(tag in old and tag in new and old[tag] != new[tag] for tag in TAGS)


def _arms(include: object) -> list[_Piece]:
    place = f"{MATRIX}.{INCLUDE}"
    if not isinstance(include, list) or not include:
        raise BadInput("is a list of arms", place=place, remedy="write `- name: first-arm`")
    return [_arm(entry, f"{place}.{index}") for index, entry in enumerate(include)]


def _arm(entry: object, place: str) -> _Piece:
    if not isinstance(entry, Mapping):
        raise BadInput("is a mapping of keys to values", place=place, remedy="write `name: arm`")
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise BadInput(
            "is missing", place=f"{place}.name", remedy="add it: a word that tells the arms apart"
        )
    if MATRIX in entry:
        raise BadInput("stands in an arm", place=f"{place}.{MATRIX}", remedy="remove it")
    change = {key: part for key, part in entry.items() if key != "name"}
    return _Piece(name, is_seed=False, change=change, place=place)


def _axis(path: object, values: object) -> list[_Piece]:
    place = f"{MATRIX}.{path}"
    if not isinstance(path, str) or not all(path.split(".")):
        raise BadInput(
            "is no key of a job", place=place, remedy="write a path like training.optimizer.lr"
        )
    if path == "name":
        raise BadInput("is made by the matrix", place=place, remedy="name arms under `include`")
    if not isinstance(values, list) or not values:
        raise BadInput("is a list of values", place=place, remedy=f"write `{path}: [...]`")
    keys = path.split(".")
    return [
        _Piece(f"{keys[-1]}-{_word(one, index)}", path == SEED, _nested(keys, one), place)
        for index, one in enumerate(values)
    ]


def _word(value: object, index: int) -> str:
    """A value as part of a name; its place in the list where it is no plain word."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    letters = text.replace(".", "").replace("-", "").replace("_", "")
    return text if isinstance(value, str | int | float) and letters.isalnum() else str(index)


def _nested(keys: list[str], value: object) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def _member(base: Mapping[str, Any], pieces: tuple[_Piece, ...]) -> Member:
    job = dict(base)
    for piece in pieces:
        job = merged(job, piece.change)
    suffix = "-".join(piece.word for piece in pieces)
    arm = "-".join(piece.word for piece in pieces if not piece.is_seed) or str(base.get("name"))
    if isinstance(base.get("name"), str):  # else the check of the job says what is wrong with it
        labels = job.get("labels") or {}
        own = {LABEL_MATRIX: base["name"], LABEL_ARM: arm}
        job |= {"name": f"{base['name']}-{suffix}", "labels": merged(labels, own)}
    return Member(suffix, job, tuple(piece.place for piece in pieces))


def _refuse_own_labels(base: Mapping[str, Any]) -> None:
    labels = base.get("labels")
    for label in (LABEL_MATRIX, LABEL_ARM):
        if isinstance(labels, Mapping) and label in labels:
            raise BadInput(
                "is set by the matrix", place=f"labels.{label}", remedy="choose another label"
            )
