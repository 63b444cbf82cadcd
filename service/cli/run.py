"""`strata run` and `strata submit`: a job file becomes jobs, and they are watched to their end."""

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.door import ServerDoor
from service.cli.live import FINAL, Watch, outcome_of
from service.cli.local import ensure_server
from service.cli.packing import with_code_packed
from service.cli.render import output_option, print_json, short
from service.domain.errors import BadInput, Refusal
from service.settings import Settings, read_settings

if TYPE_CHECKING:  # pydantic is imported once a file is read
    from service.domain.spec import JobSpec
    from service.domain.specfile import JobFile

FAILED = 1
INTERRUPTED = 130


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--resume", metavar="JOB", help="Go on with a held job instead of a new one.")
@output_option
def run(file: Path | None, resume: str | None, output: str) -> int:
    """Train a job on this machine: queue, database, Ray, checkpoints; watch it to its end.

    Ctrl-C stops at a step, writes a checkpoint and holds the job; twice cancels it. The jobs of a
    matrix run as places come free, and are compared in the end.
    """
    if (file is None) == (resume is None):
        raise BadInput("name a job file, or a job to --resume, not both", place="FILE")
    settings = read_settings()
    read = read_file(file) if file is not None else None
    door = ensure_server(settings)
    if resume is not None:
        job = door.status(resume)["job"]
        if job["state"] == "held":
            job = door.client.post(f"{door.client.job(job['id'])}/release")
    else:
        assert file is not None
        assert read is not None
        submitted = submit_all(door, read.specs, secrets.token_hex(16), file.parent)
        if read.matrix is not None:
            return _see_all_through(settings, door, submitted, output, holds=True)
        job = submitted[0]["job"]
    return _see_through(Watch(settings, door, job["id"], holds=True), output)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--wait", is_flag=True, help="Watch the job to its end; its failure is exit code 1.")
@click.option("--dry-run", is_flag=True, help="Say what would happen now, and store nothing.")
@click.option("--key", help="The same key and file give the same jobs, however often it is sent.")
@output_option
def submit(file: Path, wait: bool, dry_run: bool, key: str | None, output: str) -> int:
    """Put a job into the queue; a local service is started where STRATA_URL is not set."""
    settings = read_settings()
    read = read_file(file)
    key = key or secrets.token_hex(16)  # before the first try, so that a second one is no other job
    door = ensure_server(settings)
    if dry_run:
        _say_dry_run(door, read, file.parent, output)
        return 0
    submitted = submit_all(door, read.specs, key, file.parent)
    if wait and read.matrix is not None:
        return _see_all_through(settings, door, submitted, output, holds=False)
    if wait:
        return _see_through(Watch(settings, door, submitted[0]["job"]["id"], holds=False), output)
    if output == "json":
        matrix = {"matrix": read.matrix, "jobs": submitted}
        print_json(submitted[0] if read.matrix is None else matrix)
        return 0
    for one in submitted:
        _say_submitted(one)
    if read.matrix is not None:
        click.echo(f"  compare them: strata compare --matrix {read.matrix}", err=True)
    else:
        click.echo(f"  watch it: strata status {short(submitted[0]['job']['id'])}", err=True)
    return 0


def submit_all(
    door: ServerDoor, specs: "Sequence[JobSpec]", key: str, beside: Path
) -> list[dict[str, Any]]:
    """Submit the jobs of a file, each under a key of its own; a repeat gives the same jobs.

    Args:
        door: the server.
        specs: one job, or the members of a matrix.
        key: of one job; the members' keys are made of it and their names.
        beside: the job file's folder, from which `code` is meant.

    Raises:
        Refusal: what the server said to the first job that it refused; those before it stand.
    """
    packed: dict[str, str] = {}  # members mostly name the same code
    submitted: list[dict[str, Any]] = []
    for spec in specs:
        asked = spec.model_dump(mode="json")
        if spec.code is not None:
            if spec.code not in packed:
                packed[spec.code] = with_code_packed(door, asked, beside)["code"]
            asked["code"] = packed[spec.code]
        own = key if len(specs) == 1 else f"{key}/{spec.name}"
        try:
            submitted.append(door.client.post("/v1/jobs", {"spec": asked, "key": own}))
        except Refusal as refusal:
            if submitted:
                remedy = f"{len(submitted)} of {len(specs)} jobs were submitted; go on: --key {key}"
                refusal.remedy = f"{refusal.remedy}; {remedy}".removeprefix("; ")
            raise
    return submitted


def _say_dry_run(door: ServerDoor, read: "JobFile", beside: Path, output: str) -> None:
    answers = []
    for spec in read.specs:
        asked = with_code_packed(door, spec.model_dump(mode="json"), beside)
        answer = door.client.post("/v1/jobs/dry-run", {"spec": asked})
        answers.append({"name": spec.name, **answer})
        if output == "table":
            head = "" if read.matrix is None else f"{spec.name}: "
            waits = "" if answer["starts"] else "waits: "
            click.echo(f"{head}{waits}{answer['sentence']}")
    if output == "json":
        matrix = {"matrix": read.matrix, "jobs": answers}
        print_json(answers[0] if read.matrix is None else matrix)


def _say_submitted(submitted: dict[str, Any]) -> None:
    job = submitted["job"]
    verb = "submitted" if submitted["created"] else "was there already:"
    click.echo(f"{verb} {job['spec']['name']} {short(job['id'])}")


def read_file(file: Path) -> "JobFile":
    """The jobs of a file; checked here, where its lines are known."""
    from service.domain.specfile import read_jobs

    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadInput("is no UTF-8 text", place=str(file), remedy="is it a job file?") from None
    except OSError as error:
        raise BadInput(
            f"can't be read: {error.strerror}", place=str(file), remedy="name a job file"
        ) from error
    return read_jobs(text, str(file))


def _see_all_through(
    settings: Settings,
    door: ServerDoor,
    submitted: Sequence[dict[str, Any]],
    output: str,
    *,
    holds: bool,
) -> int:
    """Watch the jobs of a matrix, compare them, and return the exit code."""
    from service.cli.compare import show_comparison
    from service.cli.live_matrix import MatrixWatch

    ids = [one["job"]["id"] for one in submitted]
    watch = MatrixWatch(settings, door, ids, holds=holds)
    jobs = watch.run()
    if watch.was_interrupted and any(job["state"] not in FINAL for job in jobs):
        click.echo(watch.farewell(jobs), err=True)
        return INTERRUPTED
    show_comparison(watch.door, ids, output)
    bad = [job for job in jobs if job["state"] != "succeeded"]
    for job in bad:
        said = job["reason_text"] or job["failure"] or job["state"]
        click.echo(f"strata: {job['spec']['name']} {job['state']}: {said}", err=True)
    return FAILED if bad else 0


def _see_through(watch: Watch, output: str) -> int:
    """Watch a job, print how it ended, and return the exit code."""
    status = watch.run()
    job = status["job"]
    if output == "json":
        print_json(outcome_of(status))
    else:
        watch.print_end(status)
    if watch.was_interrupted and job["state"] not in ("succeeded", "failed"):
        click.echo(watch.farewell(job), err=True)
        return INTERRUPTED
    if job["state"] not in FINAL:
        click.echo(f"strata: {job['reason_text'] or job['state']}", err=True)
    elif job["state"] != "succeeded":
        said = job["reason_text"] or job["failure"] or job["state"]
        click.echo(f"strata: {job['spec']['name']} {job['state']}: {said}", err=True)
    sys.stdout.flush()
    return 0 if job["state"] == "succeeded" else FAILED
