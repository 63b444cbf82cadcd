"""YAML text -> JobSpecs; every error names the file, the line and the path, and how to mend it."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from service.domain.errors import BadInput
from service.domain.matrix import MATRIX, Member, members
from service.domain.spec import JobSpec
from workers.contract.recipe_words import RecipeMistake

SPEC_BYTES_MAX = 256 * 1024  # a thousand layers written one by one are 10 KiB
SPEC_DEPTH_MAX = 20  # nesting; the deepest real spec has 4

Place = tuple[str | int, ...]
_NOT_PARTS_OF_A_PATH = ("function-", "constrained-", "tuple", "list", "int", "float", "str")


@dataclass(frozen=True, slots=True)
class JobFile:
    """What a job file holds: one job, or the members of a matrix."""

    matrix: str | None  # its name; None: one job
    specs: tuple[JobSpec, ...]


def read_jobs(text: str, origin: str) -> JobFile:
    """Return what the text describes; `origin` is its file's name, for the errors.

    Raises:
        BadInput: not YAML, not a mapping, too large, or not a job; one sentence with its place.
    """
    if len(text.encode()) > SPEC_BYTES_MAX:
        raise BadInput(
            f"is larger than {SPEC_BYTES_MAX} bytes", place=origin, remedy="is it a job file?"
        )
    node, value = _parse(text, origin)
    lines = dict(_lines(node, ()))
    try:
        if not isinstance(value, Mapping) or MATRIX not in value:
            return JobFile(None, (check_spec(value),))
        made = members(value)
    except BadInput as refusal:
        line = _line_of(refusal.place, lines)
        raise _placed(refusal, f"{origin}:{line} {refusal.place}".rstrip()) from None
    return JobFile(str(value.get("name")), tuple(_check_member(m, lines, origin) for m in made))


def _check_member(member: Member, lines: Mapping[str, int], origin: str) -> JobSpec:
    """Check one job of a matrix; its mistake may stand in its arm, in an axis, or in the base."""
    try:
        return check_spec(member.value)
    except BadInput as refusal:
        at = refusal.place
        places = [f"{place}.{at}" for place in member.places]
        places += [place for place in member.places if at == place.removeprefix(f"{MATRIX}.")]
        line = _line_of(next((place for place in places if place in lines), at), lines)
        place = f"{origin}:{line} {member.suffix}: {at}".rstrip(": ")
        raise _placed(refusal, place) from None


def _placed(refusal: BadInput, place: str) -> BadInput:
    return BadInput(refusal.sentence, place=place, remedy=refusal.remedy)


def check_spec(value: object) -> JobSpec:
    """Return the job that this value (of YAML or JSON) describes, else raise BadInput."""
    if not isinstance(value, Mapping):
        raise BadInput("a job is a mapping of keys to values", remedy="begin with `name: my-job`")
    try:
        return JobSpec.model_validate(value)
    except ValidationError as error:
        # A key that nobody knows comes first: it may be why the right one is missing.
        mistakes = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        raise _refusal(mistakes[0], value) from None


def _parse(text: str, origin: str) -> tuple[yaml.Node, object]:
    """The text as nodes, which know their lines, and as a value."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise BadInput(
                "a job is a mapping of keys to values",
                place=origin,
                remedy="begin with `name: my-job`",
            )
        _refuse_depth(node, origin)
        _refuse_twice(node, origin)
        return node, yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise BadInput(
            f"is not YAML: {error.problem}",
            place=f"{origin}:{mark.line + 1}" if mark else origin,
            remedy="mend the line's syntax",
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date like 2026-99-99
        sentence = str(error).splitlines()[0]
        raise BadInput(
            f"is not YAML: {sentence}", place=origin, remedy="save it as plain UTF-8 text"
        ) from None


def _refuse_depth(root: yaml.Node, origin: str) -> None:
    """Refuse deep nesting and aliases, which can make a small text a huge value."""
    level, seen = [root], {id(root)}
    for _ in range(SPEC_DEPTH_MAX):
        level = [child for node in level for child in _children(node)]
        for node in level:
            if id(node) in seen:
                place = f"{origin}:{node.start_mark.line + 1}"
                raise BadInput("uses a YAML alias", place=place, remedy="write the value out")
            seen.add(id(node))
        if not level:
            return
    raise BadInput(
        f"nests deeper than {SPEC_DEPTH_MAX} levels", place=origin, remedy="is it a job file?"
    )


def _refuse_twice(node: yaml.Node, origin: str) -> None:
    """Refuse a key that stands twice: YAML would quietly take the last one."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            place = f"{origin}:{key.start_mark.line + 1} {key.value}"
            if not isinstance(key, yaml.ScalarNode):
                raise BadInput("a key is a word", place=place, remedy="write `key: value`")
            if key.value in seen:
                raise BadInput("stands twice", place=place, remedy="remove one of the two")
            seen.add(key.value)
    for child in _children(node):
        _refuse_twice(child, origin)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _lines(node: yaml.Node, place: Place) -> Iterator[tuple[str, int]]:
    """Each path of the text with its line, counted from 1."""
    yield path_text(place), node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            here = (*place, str(key.value))
            yield from _lines(child, here)
            yield path_text(here), key.start_mark.line + 1  # the key's line, not its value's
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _lines(child, (*place, index))


def _line_of(path: str, lines: Mapping[str, int]) -> int:
    """The line of the path, or of the nearest part above it that stands in the text."""
    while path and path not in lines:
        path = path.rpartition(".")[0]
    return lines.get(path, 1)


def path_text(place: Place) -> str:
    """`("model", "hidden", 3)` as `model.hidden.3`."""
    return ".".join(str(part) for part in place)


def _refusal(error: ErrorDetails, value: Mapping[str, Any]) -> BadInput:
    place = _place_in(error["loc"], value)
    context = error.get("ctx", {})
    cause = context.get("error")
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(place, value)
        case "missing":
            return BadInput("is missing", place=path_text(place), remedy="add it")
        case "union_tag_not_found":
            key = str(context["discriminator"]).strip("'")
            return BadInput("is missing", place=path_text((*place, key)), remedy="add it")
        case "union_tag_invalid":
            key = str(context["discriminator"]).strip("'")
            known = str(context["expected_tags"]).replace("'", "")
            return BadInput(
                f'is "{context["tag"]}", which is not known',
                place=path_text((*place, key)),
                remedy=f"write one of: {known}",
            )
        case "literal_error":
            known = str(context["expected"]).replace("'", "").replace(" or ", ", ")
            return BadInput(
                f"is {_shown(error['input'])}, which is not known",
                place=path_text(place),
                remedy=f"write one of: {known}",
            )
    if isinstance(cause, RecipeMistake):
        at = cause.path if not place else f"{path_text(place)}.{cause.path}"
        return BadInput(cause.sentence, place=at)
    message = str(cause) if cause else error["msg"][:1].lower() + error["msg"][1:]
    return BadInput(f"is {_shown(error['input'])}: {message}", place=path_text(place))


def _place_in(loc: Place, value: object) -> Place:
    """The part of pydantic's location that stands in the value: without its union tags."""
    place: list[str | int] = []
    for number, part in enumerate(loc):
        if part == "[key]":  # the key itself is wrong; it has just been named
            continue
        if isinstance(value, Mapping | Sequence) and _holds(value, part):
            value = value[part]  # type: ignore[index]  # _holds has just looked
        elif number < len(loc) - 1 or _is_tag(part, value):
            continue
        place.append(part)
    return tuple(place)


def _holds(value: Mapping[Any, Any] | Sequence[Any], part: str | int) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(part, int) and part < len(value)


def _is_tag(part: str | int, value: object) -> bool:
    if not isinstance(part, str):
        return False
    if isinstance(value, Mapping):
        return part in value.values()
    return part.startswith(_NOT_PARTS_OF_A_PATH)


def _unknown_key(place: Place, value: object) -> BadInput:
    key = str(place[-1])
    known = _known_keys(place[:-1], value)
    near = difflib.get_close_matches(key, known, n=1)
    remedy = f"did you mean `{near[0]}`?" if near else f"known are: {', '.join(sorted(known))}"
    return BadInput("is not a known key", place=path_text(place), remedy=remedy)


def _known_keys(place: Place, value: object) -> list[str]:
    """The keys of the model that stands at `place`."""
    models: list[type[BaseModel]] = [JobSpec]
    for part in place:
        value = value[part] if isinstance(value, Mapping) else None
        fields = [m.model_fields[str(part)] for m in models if str(part) in m.model_fields]
        models = [m for field in fields for m in _models_in(field.annotation, value)]
    return sorted({name for model in models for name in model.model_fields})


def _models_in(annotation: object, value: object) -> list[type[BaseModel]]:
    """The models that an annotation names; of a tagged union the one whose tag the value bears."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    models = [
        model for part in getattr(annotation, "__args__", ()) for model in _models_in(part, value)
    ]
    tagged = [model for model in models if _bears_tag(model, value)]
    return tagged or models


def _bears_tag(model: type[BaseModel], value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    return any(
        value.get(key) in getattr(model.model_fields[key].annotation, "__args__", ())
        for key in ("source", "kind", "method", "name")
        if key in model.model_fields
    )


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= 60 else text[:57] + "..."
