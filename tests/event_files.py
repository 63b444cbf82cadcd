"""Reads TensorBoard's event files as TensorBoard does, for tests of what writes them."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tensorboardX.proto.event_pb2 import Event


@dataclass(frozen=True)
class Scalar:
    """One point of one curve."""

    tag: str
    step: int
    at_seconds: float
    value: float


def scalars_in(content: bytes) -> list[Scalar]:
    """All points of a file, or of files one after the other, that no restart made void."""
    found: list[Scalar] = []
    for event in map(Event.FromString, _records(content)):
        if event.HasField("session_log"):
            found = [one for one in found if one.step < event.step]
        for told in event.summary.value:
            found.append(Scalar(told.tag, event.step, event.wall_time, told.simple_value))
    return found


def _records(content: bytes) -> Iterator[bytes]:
    """TFRecord's frames: a length, its checksum, that many bytes, their checksum."""
    at = 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield content[at + 12 : at + 12 + length]
        at += 16 + length
    assert at == len(content), "the last record is torn"
