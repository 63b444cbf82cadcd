"""Commands that look at jobs, and those that tell them something."""

import json
import threading
from typing import Any

import click

from service.cli.door import ServerDoor, open_door, server_door
from service.cli.render import (
    STAGE_COLUMNS,
    ago,
    counted,
    number,
    output_option,
    print_json,
    print_table,
    short,
    size,
    span,
    stage_row,
)
from service.domain.errors import NotFound
from service.settings import read_settings

STATES = (
    "queued",
    "held",
    "running",
    "stopping",
    "succeeded",
    "failed",
    "cancelled",
    "timed_out",
)
FOLLOW_SECONDS = 0.5
EVENT_WAIT_SECONDS = 15.0  # that a server keeps the question open
FINAL = frozenset({"succeeded", "failed", "cancelled", "timed_out"})


@click.command()
@click.option("--state", multiple=True, type=click.Choice(STATES), help="May be repeated.")
@click.option("--queue", help="Only this queue.")
@click.option("--name", help="Only jobs of this name.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@output_option
def jobs(
    state: tuple[str, ...], queue: str | None, name: str | None, limit: int, output: str
) -> None:
    """List jobs, newest first."""
    try:
        door = open_door(read_settings())
        found = door.jobs(state=list(state) or None, queue=queue, name=name, limit=limit)
    except NotFound:
        found = []  # nobody has submitted anything here
    if output == "json":
        print_json({"jobs": found})
        return
    if not found:
        click.echo("no jobs; submit one: strata submit FILE", err=True)
        return
    columns = ("id", "name", "state", "attempt", "workers", "age", "why")
    print_table(columns, [_job_row(job) for job in found])


def _job_row(job: dict[str, Any]) -> tuple[object, ...]:
    return (
        short(job["id"]),
        job["spec"]["name"],
        job["state"],
        job["attempt"] or None,
        job["spec"]["resources"]["workers"],
        ago(job["submitted_at"]),
        job["reason_text"] if job["state"] not in ("running", "succeeded") else None,
    )


@click.command()
@click.argument("job")
@output_option
def status(job: str, output: str) -> None:
    """Show a JOB: its stages, its loss, its checkpoint, and why it waits."""
    found = open_door(read_settings()).status(job)
    if output == "json":
        print_json(found)
        return
    row = found["job"]
    print_table(("", ""), _status_rows(found))
    if found["stages"]:
        click.echo()
        print_table(STAGE_COLUMNS, [stage_row(stage) for stage in found["stages"]])
    if row["metrics"]:
        click.echo()
        print_table(("metric", ""), [(k, number(v)) for k, v in row["metrics"].items()])


def _status_rows(found: dict[str, Any]) -> list[tuple[str, object]]:
    row, latest, checkpoint = found["job"], found["latest"], found["checkpoint"]
    rows: list[tuple[str, object]] = [
        ("job", row["id"]),
        ("name", row["spec"]["name"]),
        ("state", row["state"]),
        ("why", None if row["state"] == "succeeded" else row["reason_text"] or row["reason"]),
        ("owner", row["owner"]),
        ("submitted", f"{ago(row['submitted_at'])} ago"),
    ]
    for attempt in found["attempts"]:
        nodes = len({rank["node_id"] for rank in attempt["ranks"]})
        ending = attempt["failure"] or (attempt["outcome"] or {}).get("result") or ""
        where = f"{counted(len(attempt['ranks']), 'rank')} on {counted(nodes, 'node')}"
        said = f"{attempt['state']}, {where} of {attempt['agent']}"
        rows.append((f"attempt {attempt['number']}", f"{said}, {ending}" if ending else said))
    if latest and row["state"] in ("running", "stopping"):
        progress = latest["progress"]
        rows.append(("step", f"{progress['step']}, epoch {progress['epoch']} of its stage"))
        rows.append(("loss", number(progress["loss"])))
        rows.append(("speed", f"{progress['samples_per_second']:,.0f} samples/s"))
        rows.append(("ETA", span(progress["eta_seconds"])))
    if checkpoint:
        written = f"{size(checkpoint['bytes'])}, {ago(checkpoint['written_at'])} ago"
        rows.append(("checkpoint", f"{checkpoint['ref']['path']} ({written})"))
    return rows


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--rank", type=click.IntRange(0), default=0, show_default=True)
@click.option("--driver", is_flag=True, help="The gang's driver instead of a rank.")
@click.option("--attempt", type=click.IntRange(1), help="By default the newest.")
@output_option
def logs(job: str, follow: bool, rank: int, driver: bool, attempt: int | None, output: str) -> None:
    """Read what a JOB's processes wrote."""
    door = open_door(read_settings())
    who = "driver" if driver else f"rank-{rank}"
    cursor, parts = "", []
    while True:
        is_over = not follow or door.status(job)["job"]["state"] in FINAL  # before the last look
        part = door.logs(job, attempt, who, cursor)
        if output == "table":
            click.echo(part["text"], nl=False)
        parts.append(part["text"])
        if part["cursor"] != cursor:
            cursor = part["cursor"]
            continue
        if is_over:
            break
        threading.Event().wait(FOLLOW_SECONDS)
    if output == "json":
        print_json({**part, "text": "".join(parts)})


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@output_option
def events(job: str, follow: bool, output: str) -> None:
    """Show everything that ever happened to a JOB."""
    if follow:
        _follow_events(server_door(read_settings()), job, output)
        return
    door = open_door(read_settings())
    found: list[dict[str, Any]] = []
    while page := door.events(job, found[-1]["id"] if found else 0):
        found += page
    if output == "json":
        print_json({"events": found})
        return
    columns = ("time", "who", "about", "what", "", "why")
    print_table(columns, [_event_row(event) for event in found])


def _follow_events(door: ServerDoor, ref: str, output: str) -> None:
    """Print events as they happen: a line for each, of JSON for machines."""
    job_id, last = door.status(ref)["job"]["id"], 0  # @latest may be another one soon
    while True:
        is_over = door.status(job_id)["job"]["state"] in FINAL  # before the last look
        page = door.events(job_id, last, wait_seconds=0.0 if is_over else EVENT_WAIT_SECONDS)
        for event in page:
            cells = [str(cell) for cell in _event_row(event) if cell]
            click.echo(json.dumps(event) if output == "json" else "  ".join(cells))
            last = event["id"]
        if is_over and not page:
            return


def _event_row(event: dict[str, Any]) -> tuple[object, ...]:
    moved = f"{event['source'] or ''} -> {event['goal']}" if event["goal"] else None
    return (
        event["at"][11:23],
        event["actor"],
        "job" if event["attempt"] is None else f"attempt {event['attempt']}",
        event["move"],
        moved,
        event["message"] or event["reason"],
    )


def _act(act: str, job_ids: tuple[str, ...], output: str) -> None:
    """Do one thing to each job; the first refusal ends it."""
    door = server_door(read_settings())
    answers = [door.client.post(f"{door.client.job(job)}/{act}") for job in job_ids]
    if output == "json":
        print_json({"jobs": answers})
        return
    for job in answers:
        click.echo(f"{job['spec']['name']} {short(job['id'])} is {job['state']}")


@click.command()
@click.argument("jobs", nargs=-1, required=True)
@output_option
def cancel(jobs: tuple[str, ...], output: str) -> None:
    """End JOBS for good; what runs stops at its next step."""
    _act("cancel", jobs, output)


@click.command()
@click.argument("jobs", nargs=-1, required=True)
@output_option
def hold(jobs: tuple[str, ...], output: str) -> None:
    """Stop JOBS at a checkpoint and keep them; `release` lets them go on."""
    _act("hold", jobs, output)


@click.command()
@click.argument("jobs", nargs=-1, required=True)
@output_option
def release(jobs: tuple[str, ...], output: str) -> None:
    """Let held JOBS wait for their turn again."""
    _act("release", jobs, output)


@click.command()
@output_option
def nodes(output: str) -> None:
    """List agents and the nodes that they offer."""
    found = server_door(read_settings()).client.get("/v1/nodes")
    if output == "json":
        print_json(found)
        return
    silent = {agent["name"]: agent["is_silent"] for agent in found["agents"]}
    print_table(
        ("agent", "state", "host", "CPUs", "GPUs", "GPU type"),
        [
            (
                node["agent"],
                "silent" if silent.get(node["agent"]) else "ready",
                node["host"],
                node["cpus"],
                node["gpus"],
                node["gpu_type"],
            )
            for node in found["nodes"]
        ],
    )
