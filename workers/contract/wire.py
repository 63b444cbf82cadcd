"""Two kinds of text cross our doors: what people write, and what our halves say to each other.

What people write is checked strictly: an unknown key is a mistake that deserves a sentence. What
the halves say bears a version and may be newer than its reader: unknown keys are ignored, so that
a gang which runs for a week outlives an upgrade of the control plane.
"""

from typing import NewType

from pydantic import BaseModel, ConfigDict

CONTRACT_VERSION = 1
"""The version that this code speaks; a server also understands the one before."""

JobId = NewType("JobId", str)
"""A UUIDv7 in its canonical text form; sorts by time of submission."""


def uuid7(now_ms: int, random_bits: int) -> str:
    """A UUIDv7 (RFC 9562) in its text form: 48 bits of milliseconds, then 74 random ones."""
    value = (now_ms << 80) | (random_bits & ((1 << 80) - 1))
    value = value & ~(0xF << 76) | (0x7 << 76)  # the version
    value = value & ~(0x3 << 62) | (0x2 << 62)  # the RFC's variant
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


class Written(BaseModel):
    """Something that people write: frozen, and unknown keys are refused."""

    # Models are built when they are first used: a command that lists jobs uses few of them.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class Message(BaseModel):
    """Something that the halves say to each other: frozen, and unknown keys are ignored."""

    # A diverged net measures infinities; JSON has no number for them, so they travel as strings.
    model_config = ConfigDict(
        frozen=True, extra="ignore", ser_json_inf_nan="strings", defer_build=True
    )
