"""Ends a rank whose driver has fallen silent: a node that was cut off must not train on for ever.

Ray ends the ranks of a dead driver by itself, as far as it can reach their nodes.
"""

import threading
from collections.abc import Callable

LOOK_SECONDS = 10.0
LOOKS_MAX = 30  # 300 s of silence: then the service, too, has given the attempt up


class OrphanWatch:
    """Counts looks between which nobody called, not seconds.

    So neither a machine that slept nor an interpreter that was held takes its driver for dead.
    """

    def __init__(self, end: Callable[[], None], look_seconds: float = LOOK_SECONDS) -> None:
        self._end = end
        self._look_seconds = look_seconds
        self._was_called = threading.Event()
        threading.Thread(target=self._run, name="orphan-watch", daemon=True).start()

    def called(self) -> None:
        """Say that the driver has called."""
        self._was_called.set()

    def _run(self) -> None:
        silent_looks = 0
        while silent_looks < LOOKS_MAX:
            self._was_called.clear()
            silent_looks = 0 if self._was_called.wait(self._look_seconds) else silent_looks + 1
        self._end()
