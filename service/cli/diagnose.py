"""`strata diagnose`: why a job does not learn, or not fast."""

from typing import Any

import click

from service.cli.door import open_door
from service.cli.render import number, output_option, print_json, print_table
from service.settings import read_settings

COLUMNS = ("layer", "gradient", "update ratio", "code sd", "saturated", "dead")


@click.command()
@click.argument("job")
@output_option
def diagnose(job: str, output: str) -> None:
    """Say in words why a JOB is stuck, and show its layers from inside."""
    found = open_door(read_settings()).diagnosis(job)
    if output == "json":
        print_json(found)
        return
    for verdict in found["verdicts"]:
        click.secho(verdict["code"], bold=True)
        click.echo(f"  {verdict['sentence']}")
    if not found["verdicts"]:
        click.echo("nothing stands out")
    if found["layers"]:
        click.echo(f"\nlayers at step {found['looked_at_step']}, from the input up")
        print_table(COLUMNS, [_row(layer) for layer in found["layers"]])


def _row(layer: dict[str, Any]) -> tuple[object, ...]:
    return (
        layer["name"],
        number(layer["grad_norm"]),
        number(layer["update_ratio"]),
        number(layer["code_sd"]),
        _share(layer["saturation"]),
        _share(layer["dead"]),
    )


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.0%}"
