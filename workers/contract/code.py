"""A user's own code: packed where a job is submitted, named by its hash, unpacked on the workers.

A pack is a gzipped tar of plain files and folders. It is named by the SHA-256 of its bytes, so that
the same code is stored once, and what runs is what was submitted.
"""

import re

PACK_BYTES_MAX = 4 << 20  # modules, not data: data has its own roads
UNPACKED_BYTES_MAX = 64 << 20
FILES_MAX = 5000
OURS = frozenset({"service", "workers", "migrations"})
"""Top-level names that would hide Strata's own packages."""

_NAME = re.compile(r"sha256:([0-9a-f]{64})")


def pack_name(sha256: str) -> str:
    """What a stored recipe says under `code`."""
    return f"sha256:{sha256}"


def sha256_of_pack(name: str) -> str | None:
    """The hash in a recipe's `code`; None where it is a folder that is still to be packed."""
    match = _NAME.fullmatch(name)
    return match.group(1) if match else None


def pack_file(sha256: str) -> str:
    """Where a pack stands below the storage root."""
    return f"code/{sha256}.tar.gz"
