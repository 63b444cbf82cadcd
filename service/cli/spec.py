"""`strata spec`: the job file's schema, and a check of one without any server."""

from pathlib import Path

import click

from service.cli.render import output_option, print_json


@click.group()
def spec() -> None:
    """Show the job file's schema, or check one."""


@spec.command()
def schema() -> None:
    """Print the JSON schema of a job file."""
    from service.domain.spec import JobSpec

    print_json(JobSpec.model_json_schema())


@spec.command()
@click.argument("file", type=click.Path(path_type=Path))
@output_option
def check(file: Path, output: str) -> None:
    """Check a job FILE; print it with every default written out."""
    from service.cli.run import read_job

    job = read_job(file)
    if output == "json":
        print_json(job)
        return
    import yaml

    click.echo(yaml.safe_dump(job, sort_keys=False), nl=False)
