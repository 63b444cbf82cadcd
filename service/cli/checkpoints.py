"""`strata checkpoints`: which there are, what they hold, whether they are what they were."""

import sys

import click

from service.cli.door import open_door
from service.cli.render import ago, output_option, print_json, print_table, size
from service.domain.errors import NotFound
from service.settings import read_settings

DAMAGED = 1


@click.group()
def checkpoints() -> None:
    """List, show and verify checkpoints."""


@checkpoints.command("list")
@click.argument("job")
@click.option("--all", "with_pruned", is_flag=True, help="The deleted ones too.")
@output_option
def list_checkpoints(job: str, with_pruned: bool, output: str) -> None:
    """List a JOB's checkpoints, newest first."""
    found = open_door(read_settings()).checkpoints(job)
    found = [one for one in found if with_pruned or not one["pruned"]]
    if output == "json":
        print_json({"checkpoints": found})
        return
    print_table(
        ("stage", "step", "attempt", "size", "age", "path"),
        [
            (
                one["ref"]["stage"],
                one["ref"]["step"],
                one["ref"]["attempt"],
                "deleted" if one["pruned"] else size(one["bytes"]),
                ago(one["written_at"]),
                one["ref"]["path"],
            )
            for one in found
        ],
    )


@checkpoints.command("show")
@click.argument("job")
@click.option("--path", help="By default the current one.")
@output_option
def show(job: str, path: str | None, output: str) -> None:
    """Show one of a JOB's checkpoints, and whether it is whole."""
    door = open_door(read_settings())
    verified = door.verify(job, path)[0]
    row = next(
        (one for one in door.checkpoints(job) if one["ref"]["path"] == verified["path"]), None
    )
    if row is None:
        raise NotFound(f"there is no checkpoint {verified['path']!r}")
    if output == "json":
        print_json({**row, "manifest": verified["manifest"], "damage": verified["damage"]})
        return
    files = (verified["manifest"] or {}).get("files", [])
    rows = [
        ("path", row["ref"]["path"]),
        ("stage", row["ref"]["stage"]),
        ("step", row["ref"]["step"]),
        ("attempt", row["ref"]["attempt"]),
        ("written", f"{ago(row['written_at'])} ago"),
        ("bytes", size(row["bytes"])),
        ("whole", verified["damage"] or "yes"),
        *((file["name"], size(file["bytes"])) for file in files),
    ]
    print_table(("", ""), rows)


@checkpoints.command("verify")
@click.argument("job")
@click.option("--path", help="By default the current one.")
@output_option
def verify(job: str, path: str | None, output: str) -> None:
    """Compare a checkpoint's bytes with what was recorded; exit code 1 where they differ."""
    verified = open_door(read_settings()).verify(job, path)
    if output == "json":
        print_json({"verified": verified})
    else:
        for one in verified:
            click.echo(f"{one['path']}: {one['damage'] or 'whole'}")
    if any(one["damage"] for one in verified):
        sys.exit(DAMAGED)
