"""`strata checkpoints`: which there are, what they hold, whether they are what they were."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from service.cli.door import open_door, server_door
from service.cli.render import ago, output_option, print_json, print_table, size
from service.cli.workers_side import workers_side
from service.domain.errors import BadInput, NotFound, Unreachable
from service.settings import read_settings

DAMAGED = 1


@click.group()
def checkpoints() -> None:
    """List, show, verify, keep and export checkpoints; import weights."""


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
        ("stage", "step", "attempt", "size", "age", "kept", "path"),
        [
            (
                one["ref"]["stage"],
                one["ref"]["step"],
                one["ref"]["attempt"],
                "deleted" if one["pruned"] else size(one["bytes"]),
                ago(one["written_at"]),
                "pinned" if one["pinned"] else "",
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


@checkpoints.command("pin")
@click.argument("job")
@click.option("--path", help="By default the current one.")
@output_option
def pin(job: str, path: str | None, output: str) -> None:
    """Keep one of a JOB's checkpoints, whatever comes after it."""
    _pin(job, path, pinned=True, output=output)


@checkpoints.command("unpin")
@click.argument("job")
@click.option("--path", help="By default the current one.")
@output_option
def unpin(job: str, path: str | None, output: str) -> None:
    """Let a pinned checkpoint of a JOB go when enough newer ones are there."""
    _pin(job, path, pinned=False, output=output)


def _pin(job: str, path: str | None, *, pinned: bool, output: str) -> None:
    client = server_door(read_settings()).client
    done = client.post(f"{client.job(job)}/checkpoints/pin", {"path": path, "pinned": pinned})
    if output == "json":
        print_json(done)
    else:
        click.echo(f"{done['ref']['path']} is {'pinned' if pinned else 'not pinned any more'}")


@checkpoints.command("export")
@click.argument("job")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--path", help="By default the current one.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["safetensors", "torch_export"]),
    default="safetensors",
    show_default=True,
    help="The weights by name; or the net itself, as torch.export saves it.",
)
@output_option
def export(job: str, out: Path, path: str | None, form: str, output: str) -> None:
    """Write the net of one of a JOB's checkpoints to the file OUT, to be used without Strata."""
    settings = read_settings()
    found = [one for one in open_door(settings).checkpoints(job) if not one["pruned"]]
    refs = [one["ref"] for one in found if path in (None, one["ref"]["path"])]
    if not refs:
        raise NotFound(f"there is no checkpoint {path or ''} of {job}".replace("  ", " "))
    if not out.absolute().parent.is_dir():
        raise BadInput(f"there is no folder {out.absolute().parent}", place="OUT")
    module, failures = workers_side("workers.weights.export", "an export")
    try:
        module.export(settings.storage_url, json.dumps(refs[0]), form, out)
    except failures.ConfigFailure as error:
        raise BadInput(str(error)) from error
    except failures.StorageFailure as error:
        raise Unreachable(str(error), remedy="is STRATA_STORAGE_URL right?") from error
    if output == "json":
        print_json({"path": refs[0]["path"], "format": form, "file": str(out)})
    else:
        click.echo(f"{refs[0]['path']} -> {out}")


@checkpoints.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", required=True, help="resnet18, 34, 50, 101 or 152, or inception_v3.")
@click.option("--to", required=True, help="Where in storage; best *.safetensors.")
@click.option(
    "--classes",
    type=click.IntRange(min=2),
    help="Of the net that begins with them; with others than FILE's its head is left out.",
)
@output_option
def import_(file: Path, model: str, to: str, classes: int | None, output: str) -> None:
    """Bring published weights, a .safetensors or .pt FILE, to where jobs can begin from them.

    Their tensors are named as torchvision names them. Nothing in FILE is run.
    """
    settings = read_settings()
    module, failures = workers_side("workers.weights.importing", "an import")
    try:
        done = module.import_weights(
            file, model, classes, to, settings.storage_url, settings.data_roots
        )
    except failures.ConfigFailure as error:
        raise BadInput(str(error)) from error
    except failures.StorageFailure as error:
        raise Unreachable(str(error), remedy="is STRATA_STORAGE_URL right?") from error
    if output == "json":
        print_json({"weights": to, **asdict(done)})
        return
    left_out = f"; left out: {', '.join(done.left_out)}" if done.left_out else ""
    click.echo(f"{file} -> {to}: {done.num_tensors} tensors{left_out}. In a job's file:")
    model = ", ".join(f"{key}: {json.dumps(value)}" for key, value in done.model.items())
    click.echo(f"model: {{{model}}}\ninit_from:\n  weights: {to}\n  sha256: {done.sha256}")
    if done.left_out:
        click.echo("  partial: true")
    click.echo(f"# torchvision's weights want data.normalize: {done.normalize}")


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
