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
    from service.domain.matrix import MATRIX, SCHEMA
    from service.domain.spec import JobSpec

    whole = JobSpec.model_json_schema()
    whole["properties"][MATRIX] = SCHEMA
    print_json(whole)


@spec.command()
@click.argument("file", type=click.Path(path_type=Path))
@output_option
def check(file: Path, output: str) -> None:
    """Check a job FILE; print it with every default written out, a matrix as all of its jobs."""
    from service.cli.run import read_file

    read = read_file(file)
    jobs = [spec.model_dump(mode="json") for spec in read.specs]
    if output == "json":
        print_json(jobs[0] if read.matrix is None else {"matrix": read.matrix, "jobs": jobs})
        return
    import yaml

    click.echo(yaml.safe_dump_all(jobs, sort_keys=False), nl=False)
