"""Submit to first optimizer step, against Ray Train's TorchTrainer from `fit()` to its first step.

Both run two workers on the same running local Ray, in turn; ours is measured from the start of the
`strata submit` process. The target is a median ratio below 0.5.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from time import time

from tests.end_to_end.home import Home, homes, write_job

PAIRS = 6  # the first pair warms caches of the file system and is not counted


def main() -> None:
    """Print both medians and the ratio of each pair."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for home in homes(Path(folder) / "home"):
            home.call("submit", "--dry-run", str(write_job(Path(folder), "start")))
            pairs = [(ours(home, Path(folder), n), theirs(home)) for n in range(PAIRS)][1:]
    strata = statistics.median(pair[0] for pair in pairs)
    trainer = statistics.median(pair[1] for pair in pairs)
    ratios = sorted(pair[0] / pair[1] for pair in pairs)
    print(f"submit to first step   {strata:.2f} s")
    print(f"TorchTrainer           {trainer:.2f} s")
    print(
        f"ratio                  {statistics.median(ratios):.2f}"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f}, {len(ratios)} pairs)"
    )


def ours(home: Home, folder: Path, number: int) -> float:
    """Seconds from starting the command to the first report of an optimizer step."""
    path = write_job(folder, f"start-{number}", pretraining=None, training={"epochs": 3})
    began = time()
    job = home.submit(path)
    status = home.wait_final(job)
    assert status["job"]["state"] == "succeeded"
    first = home.get(f"/v1/jobs/{job}/metrics?limit=1000")["measurements"][0]
    return datetime.fromisoformat(first["at"]).timestamp() - began


def theirs(home: Home) -> float:
    """Seconds from `fit()` to the end of the first optimizer step, as rank 0 measures them."""
    with tempfile.TemporaryDirectory(prefix="trainer-") as folder:
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(home.folder / "ray_token"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        address = home.record("ray")["address"]
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.torch_trainer", address, folder],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
