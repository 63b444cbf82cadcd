"""Waits for what other threads and processes do, where nothing of theirs can be waited on."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 60.0  # machines are shared; whoever expects more says so
LOOK_SECONDS = 0.02


def eventually(
    look: Callable[[], T | None], what: str = "", seconds: float = PATIENCE_SECONDS
) -> T:
    """Look again and again until there is something; fail with `what` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        threading.Event().wait(LOOK_SECONDS)
    return seen
