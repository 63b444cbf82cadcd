"""Whole processes: `strata --help` below 0.1 s, `strata jobs` below 0.3 s, on an idle machine."""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

STRATA = Path(sys.executable).with_name("strata")
RUNS = 11


def main() -> None:
    """Print the median of each command, the embedded database being read without a server."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        environment = {**os.environ, "STRATA_HOME": folder}
        subprocess.run([STRATA, "db", "upgrade"], env=environment, check=True, capture_output=True)
        for words in (["--help"], ["jobs"]):
            seconds = [_seconds([str(STRATA), *words], environment) for _ in range(RUNS)]
            print(
                f"strata {words[0]:<8} {statistics.median(seconds):.3f} s (best {min(seconds):.3f})"
            )


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    began = perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return perf_counter() - began


if __name__ == "__main__":
    main()
