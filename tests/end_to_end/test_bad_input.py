"""Bad input gets one sentence with place and remedy and its exit code, and stores nothing."""

from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.home import Home, write_job


@pytest.fixture(scope="module", autouse=True)
def service(home: Home) -> None:
    """Start the service once, and put a data file with a range beyond [0, 1] into its storage."""
    home.call("submit", "--dry-run", str(write_job(home.folder.parent, "first")))
    rng = np.random.default_rng(0)
    np.savez(
        home.folder / "storage" / "wide.npz",
        x=rng.normal(size=(256, 8)).astype(np.float32),
        y=rng.integers(0, 3, size=256),
    )


DAE = {"method": "denoising_autoencoder", "epochs": 1, "batch_size": 16}


@pytest.mark.parametrize(
    ("changes", "place", "remedy"),
    [
        ({"models": {}}, "models", "did you mean `model`?"),
        ({"model": {"kind": "cnn"}}, "model.kind", "mlp"),
        ({"seed": "x"}, "seed", "integer"),
        ({"resources": {"workers": 2, "cpus_per_worker": 900}}, "resources", "CPU"),
        ({"data": {"source": "npz", "path": "missing.npz"}}, "data.path", "missing.npz"),
        ({"data": {"source": "npz", "path": "../../x.npz"}}, "data.path", "STRATA_DATA_ROOTS"),
        ({"data": {"source": "idx", "path": "/etc"}}, "data.path", "STRATA_DATA_ROOTS"),
        (
            {"data": {"source": "digits", "scale": "standardize"}, "pretraining": DAE},
            "pretraining.reconstruction_loss",
            "mse",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_bad_job_is_refused_at_the_door(
    home: Home, tmp_path: Path, changes: dict[str, object], place: str, remedy: str
) -> None:
    path = write_job(tmp_path, "bad", **changes)
    refusal = home.call("submit", str(path), code=2).stderr.strip().splitlines()
    assert len(refusal) == 1, refusal
    assert place in refusal[0]
    assert remedy in refusal[0]
    assert "bad" not in {job["spec"]["name"] for job in home.json("jobs")["jobs"]}


@pytest.mark.parametrize("text", ["a: [", "just words", ""])
def test_what_is_no_yaml_job_is_refused_with_its_place(
    home: Home, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert "bad.yaml" in home.call("submit", str(path), code=2).stderr


def test_a_missing_file_is_named(home: Home, tmp_path: Path) -> None:
    assert "nowhere.yaml" in home.call("submit", str(tmp_path / "nowhere.yaml"), code=2).stderr


def test_an_unknown_job_has_its_own_exit_code(home: Home) -> None:
    assert "ffffffff" in home.call("status", "ffffffff", code=3).stderr


def test_data_that_does_not_fit_the_loss_fails_with_a_sentence(home: Home, tmp_path: Path) -> None:
    path = write_job(tmp_path, "wide", data={"source": "npz", "path": "wide.npz"}, pretraining=DAE)
    done = home.call("submit", "--wait", str(path), code=1)
    assert "[0, 1]" in done.stdout + done.stderr
    job = home.json("jobs")["jobs"][0]
    assert (job["state"], job["failure"], job["attempt"]) == ("failed", "config", 1)


def test_two_jobs_with_one_key_are_a_conflict(home: Home, tmp_path: Path) -> None:
    one, other = write_job(tmp_path, "one"), write_job(tmp_path, "other")
    first = home.json("submit", "--key", "k", str(one))
    again = home.json("submit", "--key", "k", str(one))
    assert (again["created"], again["job"]["id"]) == (False, first["job"]["id"])
    assert "key" in home.call("submit", "--key", "k", str(other), code=4).stderr
    home.call("cancel", first["job"]["id"])
    assert home.wait_final(first["job"]["id"])["job"]["state"] in {"cancelled", "succeeded"}
