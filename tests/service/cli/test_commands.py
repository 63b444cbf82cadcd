"""Commands as whole processes where nothing runs yet: quick, quiet, and never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.cli.main import COMMANDS
from tests.redis_server import RedisServer

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"


def strata(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("STRATA_", "RAY_"))}
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *words],
        env={**kept, "STRATA_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_help_names_every_command_and_every_exit_code(tmp_path: Path) -> None:
    done = strata(tmp_path, "--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"  {name} " in done.stdout
    assert "130 interrupted" in done.stdout
    assert not list(tmp_path.iterdir())


def test_help_imports_nothing_that_takes_time(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom service.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "slow = {'pydantic', 'sqlalchemy', 'rich', 'fastapi', 'alembic', 'httpx', 'yaml'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(tmp_path: Path, name: str) -> None:
    done = strata(tmp_path, name, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: strata" in done.stdout


def test_the_singular_of_a_command_is_the_same_command(tmp_path: Path) -> None:
    one = strata(tmp_path, "checkpoint", "import", "--help")
    many = strata(tmp_path, "checkpoints", "import", "--help")
    assert one.returncode == many.returncode == 0
    assert one.stdout.replace("strata checkpoint ", "strata checkpoints ") == many.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["jobs"], 0, "no jobs; submit one"),
        (["status", "@latest"], 3, "submit one"),
        (["cancel", "x"], 5, "strata up"),
        (["nodes"], 5, "strata up"),
        (["compare"], 2, "name jobs, or a --matrix, not both"),
        (["compare", "a", "--matrix", "m"], 2, "name jobs, or a --matrix, not both"),
        (["compare", "a", "--plot", "curves.pdf"], 2, "is neither .png nor .html"),
        (["compare", "a"], 3, "there is no job in"),
        (["run"], 2, "FILE"),
        (["run", "nowhere.yaml"], 2, "nowhere.yaml: can't be read"),
        (["submit", "nowhere.yaml"], 2, "nowhere.yaml: can't be read"),
        (["frobnicate"], 2, "No such command"),
        (["jobs", "--state", "odd"], 2, "odd"),
        (["db", "check"], 2, "strata db upgrade"),
        (["agent", "--name", "x"], 2, "--address"),
    ],
)
def test_what_can_not_be_done_is_one_sentence_and_an_exit_code(
    tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    done = strata(tmp_path, *words)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value"), [("STRATA_PORT", "x"), ("STRATA_DATABASE_URL", "mysql://h/d")]
)
def test_a_wrong_setting_is_named(tmp_path: Path, name: str, value: str) -> None:
    done = strata(tmp_path, "db", "current", **{name: value})
    assert done.returncode == 2
    assert done.stderr.startswith(f"strata: {name}: ")


def test_the_schema_of_a_job_is_printed_and_examples_are_checked(tmp_path: Path) -> None:
    schema = json.loads(strata(tmp_path, "spec", "schema").stdout)
    assert {"name", "data", "model", "pretraining", "matrix"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    for example in EXAMPLES.glob("*.yaml"):
        job = json.loads(strata(tmp_path, "spec", "check", str(example), "-o", "json").stdout)
        assert job["name"] == example.stem


def test_a_matrix_is_checked_and_written_out_as_all_of_its_jobs(tmp_path: Path) -> None:
    file = str(EXAMPLES / "deep-vs-shallow" / "matrix.yaml")
    checked = json.loads(strata(tmp_path, "spec", "check", file, "-o", "json").stdout)
    assert checked["matrix"] == "deep-vs-shallow"
    documents = strata(tmp_path, "spec", "check", file).stdout.split("\n---\n")
    assert len(documents) == len(checked["jobs"]) == 19


def test_a_token_is_made_listed_and_revoked(tmp_path: Path) -> None:
    assert strata(tmp_path, "db", "upgrade").returncode == 0
    made = json.loads(strata(tmp_path, "tokens", "create", "anna", "-o", "json").stdout)
    listed = strata(tmp_path, "tokens", "list").stdout
    assert "anna" in listed
    assert made["token"] not in listed
    assert strata(tmp_path, "tokens", "revoke", "anna").returncode == 0
    assert strata(tmp_path, "tokens", "revoke", "anna").returncode == 3


def test_the_doctor_asks_the_redis_that_is_named(tmp_path: Path, redis_server: RedisServer) -> None:
    def finding() -> tuple[int, dict[str, object]]:
        done = strata(tmp_path, "doctor", "-o", "json", STRATA_REDIS_URL=redis_server.url)
        findings = {one["what"]: one for one in json.loads(done.stdout)["findings"]}
        return done.returncode, findings["redis"]

    code, found = finding()
    assert (code, found["is_well"]) == (0, True)
    redis_server.kill()
    code, found = finding()
    assert (code, found["is_well"]) == (1, False)
    assert "jobs go on" in str(found["sentence"])


def test_a_token_of_ones_own_is_recorded_once_and_never_shown(tmp_path: Path) -> None:
    assert strata(tmp_path, "db", "upgrade").returncode == 0
    file, own = tmp_path / "own", "0123456789abcdef" * 3
    file.write_text(own + "\n")
    for _ in range(2):
        done = strata(tmp_path, "tokens", "create", "gpu", "--agent", "--token-file", str(file))
        assert done.returncode == 0, done.stderr
        assert own not in done.stdout
    [listed] = json.loads(strata(tmp_path, "tokens", "list", "-o", "json").stdout)["tokens"]
    assert (listed["name"], listed["is_agent"]) == ("gpu", True)
    stolen = strata(tmp_path, "tokens", "create", "eva", "--token-file", str(file))
    assert stolen.returncode == 4, stolen.stderr
    file.write_text("short")
    refused = strata(tmp_path, "tokens", "create", "eva", "--token-file", str(file))
    assert refused.returncode == 2
    assert "--token-file" in refused.stderr


def test_the_doctor_finds_a_secret_that_others_can_read(tmp_path: Path) -> None:
    well = strata(tmp_path, "doctor", "-o", "json")
    assert well.returncode == 0, well.stdout
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o644)
    unwell = strata(tmp_path, "doctor", "-o", "json")
    assert unwell.returncode == 1
    findings = {one["what"]: one for one in json.loads(unwell.stdout)["findings"]}
    assert not findings["token"]["is_well"]
    assert "chmod 600" in findings["token"]["sentence"]
