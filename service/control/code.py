"""Keeps the packs of users' code on the storage; it never opens one."""

import hashlib
import secrets

from service.control.storage import opened
from service.domain.errors import BadInput
from workers.contract.code import PACK_BYTES_MAX, pack_file, sha256_of_pack


class Code:
    """The packs below the storage root."""

    def __init__(self, storage_url: str) -> None:
        self._storage_url = storage_url

    def put(self, sha256: str, content: bytes) -> None:
        """Keep a pack; the same one again changes nothing.

        Raises:
            BadInput: it is not what its name says, or too large.
            Unreachable: the storage refuses.
        """
        if len(content) > PACK_BYTES_MAX:
            raise BadInput(f"has more than {PACK_BYTES_MAX} bytes", place="code")
        if hashlib.sha256(content).hexdigest() != sha256:
            raise BadInput("was changed on its way", place="code", remedy="send it again")
        with opened(self._storage_url, pack_file(sha256)) as (files, place):
            if not files.exists(place):
                files.makedirs(files._parent(place), exist_ok=True)
                beside = f"{place}.{secrets.token_hex(8)}"
                files.pipe_file(beside, content)
                files.mv(beside, place)  # whoever finds it finds it whole

    def check(self, name: str) -> None:
        """Refuse a job whose code is no pack that is here; raises BadInput, Unreachable."""
        sha256 = sha256_of_pack(name)
        if sha256 is None:
            raise BadInput(
                f"{name!r} is no packed code",
                place="code",
                remedy="`strata submit` packs the folder that a job file names",
            )
        with opened(self._storage_url, pack_file(sha256)) as (files, place):
            is_there = files.exists(place)
        if not is_there:
            raise BadInput("is not on the storage", place="code", remedy="submit the folder anew")
