"""`strata profile`: where the time of a running job's steps goes."""

from typing import Any

import click

from service.cli.door import ServerDoor, server_door
from service.cli.live import FINAL
from service.cli.render import output_option, print_json
from service.domain.errors import Conflict
from service.settings import read_settings
from workers.contract.reports import PROFILE_FAILED, PROFILE_STEPS, PROFILE_STEPS_MAX, PROFILED

WAIT_SECONDS = 10.0  # of each long poll


@click.command()
@click.argument("job")
@click.option(
    "--steps",
    type=click.IntRange(1, PROFILE_STEPS_MAX),
    default=PROFILE_STEPS,
    show_default=True,
    help="How many steps to trace.",
)
@output_option
def profile(job: str, steps: int, output: str) -> None:
    """Trace the next steps of a running JOB on its rank 0, and wait for the trace.

    The trace lies on storage beside the job's checkpoints; Perfetto and Chrome's about:tracing
    open it.
    """
    door = server_door(read_settings())
    now = door.status(job)["job"]
    job_id, attempt = now["id"], now["attempt"]
    last = _last_event(door, job_id)
    door.client.post(f"{door.client.job(job_id)}/profile", {"steps": steps})
    click.echo(f"tracing the next {steps} steps; Ctrl-C leaves it to its own", err=True)
    event = _answer(door, job_id, attempt, last)
    if event["reason"] == PROFILE_FAILED:
        raise Conflict(event["message"])
    if output == "json":
        print_json({"job_id": job_id, "message": event["message"]})
    else:
        click.echo(event["message"])


def _last_event(door: ServerDoor, job_id: str) -> int:
    last = 0
    while page := door.events(job_id, last):
        last = page[-1]["id"]
    return last


def _answer(door: ServerDoor, job_id: str, attempt: int, last: int) -> dict[str, Any]:
    """The event that ends the trace.

    Raises:
        Conflict: the attempt ended before.
    """
    while True:
        job = door.status(job_id)["job"]  # before the look
        page = door.events(job_id, last, wait_seconds=WAIT_SECONDS)
        for event in page:
            if event["reason"] in (PROFILED, PROFILE_FAILED):
                return event
            last = event["id"]
        is_over = job["state"] in FINAL | {"held", "queued"} or job["attempt"] != attempt
        if is_over and not page:
            raise Conflict(f"attempt {attempt} of {job_id} ended before there was a trace")
