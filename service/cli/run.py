"""`strata run` and `strata submit`: a job file becomes a job, and is watched to its end."""

import secrets
import sys
from pathlib import Path
from typing import Any

import click

from service.cli.door import ServerDoor
from service.cli.live import FINAL, Watch, outcome_of
from service.cli.local import ensure_server
from service.cli.packing import with_code_packed
from service.cli.render import output_option, print_json, short
from service.domain.errors import BadInput
from service.settings import read_settings

FAILED = 1
INTERRUPTED = 130


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--resume", metavar="JOB", help="Go on with a held job instead of a new one.")
@output_option
def run(file: Path | None, resume: str | None, output: str) -> int:
    """Train a job on this machine: queue, database, Ray, checkpoints; watch it to its end.

    Ctrl-C stops at a step, writes a checkpoint and holds the job; twice cancels it.
    """
    if (file is None) == (resume is None):
        raise BadInput("name a job file, or a job to --resume, not both", place="FILE")
    settings = read_settings()
    spec = read_job(file) if file is not None else None
    door = ensure_server(settings)
    if resume is not None:
        job = door.status(resume)["job"]
        if job["state"] == "held":
            job = door.client.post(f"{door.client.job(job['id'])}/release")
    else:
        assert file is not None
        assert spec is not None
        spec = with_code_packed(door, spec, file.parent)
        job = door.client.post("/v1/jobs", {"spec": spec, "key": secrets.token_hex(16)})["job"]
    return _see_through(Watch(settings, door, job["id"], holds=True), output)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--wait", is_flag=True, help="Watch the job to its end; its failure is exit code 1.")
@click.option("--dry-run", is_flag=True, help="Say what would happen now, and store nothing.")
@click.option("--key", help="The same key and file give the same job, however often it is sent.")
@output_option
def submit(file: Path, wait: bool, dry_run: bool, key: str | None, output: str) -> int:
    """Put a job into the queue; a local service is started where STRATA_URL is not set."""
    settings = read_settings()
    spec = read_job(file)
    key = key or secrets.token_hex(16)  # before the first try, so that a second one is no other job
    door = ensure_server(settings)
    spec = with_code_packed(door, spec, file.parent)
    if dry_run:
        answer = door.client.post("/v1/jobs/dry-run", {"spec": spec})
        if output == "json":
            print_json(answer)
        else:
            click.echo(answer["sentence"] if answer["starts"] else f"waits: {answer['sentence']}")
        return 0
    submitted = door.client.post("/v1/jobs", {"spec": spec, "key": key})
    if wait:
        return _see_through(Watch(settings, door, submitted["job"]["id"], holds=False), output)
    if output == "json":
        print_json(submitted)
    else:
        _say_submitted(door, submitted)
    return 0


def _say_submitted(door: ServerDoor, submitted: dict[str, Any]) -> None:
    job = submitted["job"]
    verb = "submitted" if submitted["created"] else "was there already:"
    click.echo(f"{verb} {job['spec']['name']} {short(job['id'])}")
    click.echo(f"  watch it: strata status {short(job['id'])}", err=True)


def read_job(file: Path) -> dict[str, Any]:
    """The job as JSON; checked here, where its lines are known."""
    from service.domain.specfile import read_spec

    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadInput("is no UTF-8 text", place=str(file), remedy="is it a job file?") from None
    except OSError as error:
        raise BadInput(
            f"can't be read: {error.strerror}", place=str(file), remedy="name a job file"
        ) from error
    return read_spec(text, str(file)).model_dump(mode="json")


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
