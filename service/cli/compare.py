"""`strata compare`: jobs beside each other: their recipes' differences, figures and curves."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.door import Door, open_door
from service.cli.render import (
    number,
    output_option,
    print_json,
    print_table,
    short,
    span,
    spread,
)
from service.domain.errors import BadInput, NotFound
from service.domain.matrix import LABEL_MATRIX
from service.settings import read_settings

if TYPE_CHECKING:  # imported once there is something to compare
    from service.control.compare import Arm, Comparison, Ran

JOBS_MAX = 1280  # five seeds of the largest matrix; each job is asked for by itself
PAGE = 500  # what a server gives at once
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 30
DULL = {"seeds": 1, "attempts": 1}  # a column tells something where one arm has another number


@click.command()
@click.argument("jobs", nargs=-1)
@click.option("--matrix", metavar="NAME", help="The newest job of each name in this matrix.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the curves into a .png, or with the table into an .html file.",
)
@output_option
def compare(jobs: tuple[str, ...], matrix: str | None, plot: Path | None, output: str) -> None:
    """Compare JOBS: where their recipes differ, how well each did, what it cost.

    Jobs that differ in their seed alone are one line, with the mean and the standard deviation.
    """
    if bool(jobs) == (matrix is not None):
        raise BadInput("name jobs, or a --matrix, not both", place="JOBS")
    if plot is not None and plot.suffix not in (".png", ".html"):
        raise BadInput(f"{plot} is neither .png nor .html", place="--plot", remedy="name one")
    door = open_door(read_settings())
    ids = list(jobs) if matrix is None else ids_of_matrix(door, matrix)
    compared = show_comparison(door, ids, output)
    if plot is not None:
        from service.cli.plot import draw

        draw(compared, plot)
        click.echo(f"drawn: {plot}", err=True)


def ids_of_matrix(door: Door, matrix: str) -> list[str]:
    """The newest job of each name that bears the matrix's label, in the order of submission.

    Raises:
        NotFound: no job bears it.
    """
    newest: dict[str, str] = {}
    before: int | None = None
    while page := door.jobs(limit=PAGE, before=before):
        for job in page:
            if job["spec"]["labels"].get(LABEL_MATRIX) == matrix:
                newest.setdefault(job["spec"]["name"], job["id"])
        before = page[-1]["seq"]
    if not newest:
        raise NotFound(f"no job is of a matrix {matrix!r}", remedy="strata jobs lists them")
    return list(reversed(newest.values()))


def show_comparison(door: Door, refs: Sequence[str], output: str) -> "Comparison":
    """Ask for the jobs, compare and print them."""
    from service.control.compare import compare as compare_jobs

    if len(refs) > JOBS_MAX:
        raise BadInput(f"are {len(refs)} jobs; {JOBS_MAX} can be compared", place="JOBS")
    statuses = {status["job"]["id"]: status for status in map(door.status, refs)}
    compared = compare_jobs([_ran(door, status) for status in statuses.values()])
    if output == "json":
        print_json(_as_json(compared))
    else:
        _print(compared)
    return compared


def _ran(door: Door, status: Mapping[str, Any]) -> "Ran":
    from service.cli.live import seconds_of
    from service.control.compare import Ran

    job, stages = status["job"], status["stages"]
    last = {stage["index"] for stage in stages if stage["kind"] == "finetune"}
    lines = [line["progress"] for line in door.curves(job["id"])]
    return Ran(
        id=job["id"],
        name=job["spec"]["name"],
        state=job["state"],
        spec=job["spec"],
        metrics=job["metrics"],
        attempts=job["attempt"],
        seconds=seconds_of(job),
        epochs=tuple((stage["kind"], stage["epochs"]) for stage in stages),
        curve=tuple(
            (line["stage_step"], line["loss"])
            for line in lines
            if line["stage_index"] in last and line["loss"] is not None
        ),
    )


def _as_json(compared: "Comparison") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(compared)


def _print(compared: "Comparison") -> None:
    """Three tables: the recipes' differences, the figures, the curves."""
    if compared.paths:
        print_table(("recipe", "differs in"), _recipes(compared))
        click.echo()
    print_table(*_results(compared))
    curves = [arm for arm in compared.arms if arm.curve]
    if curves:
        top = statistics.median(arm.curve[0][1] for arm in curves)  # one that starts high hides all
        rows = [
            (arm.name, sparks(arm.curve, top), number(arm.curve[0][1]), number(arm.curve[-1][1]))
            for arm in curves
        ]
        click.echo()
        print_table(("fine-tuning", f"loss, 0 to {number(top)} or more", "first", "last"), rows)


def _recipes(compared: "Comparison") -> list[tuple[str, str]]:
    """What most arms have, and each arm's exceptions to that."""
    most = {
        path: Counter(arm.recipe[path] for arm in compared.arms).most_common(1)[0][0]
        for path in compared.paths
    }
    rows = [("(most)", ", ".join(f"{path} {value}" for path, value in most.items()))]
    for arm in compared.arms:
        own = [f"{path} {value}" for path, value in arm.recipe.items() if value != most[path]]
        rows.append((arm.name, ", ".join(own)))
    return rows


def _results(compared: "Comparison") -> tuple[list[str], list[list[object]]]:
    """The columns that tell something, so that all of it fits into a narrow terminal, and rows."""
    metrics = [name for name in compared.metrics if not _says_the_error(name, compared.metrics)]
    columns = ["result", "seeds", *metrics, "epochs", "time", "attempts", "jobs"]
    rows = [_result(arm, metrics) for arm in compared.arms]
    kept = [k for k, name in enumerate(columns) if any(row[k] != DULL.get(name) for row in rows)]
    return [columns[k] for k in kept], [[row[k] for k in kept] for row in rows]


def _says_the_error(metric: str, metrics: Sequence[str]) -> bool:
    return metric.endswith("_accuracy") and metric.replace("_accuracy", "_error") in metrics


def _result(arm: "Arm", metrics: Sequence[str]) -> list[object]:
    is_whole = arm.states == ("succeeded",)
    return [
        arm.name if is_whole else f"{arm.name} ({', '.join(arm.states)})",
        len(arm.seeds),
        *(_figure(arm, name) for name in metrics),
        arm.epochs,
        span(arm.seconds.mean) if arm.seconds else None,
        arm.attempts,
        " ".join(map(short, arm.job_ids)) if len(arm.job_ids) <= 2 else f"{len(arm.job_ids)} jobs",
    ]


def _figure(arm: "Arm", name: str) -> str | None:
    figure = arm.metrics.get(name)
    return None if figure is None else spread(figure.mean, figure.sd)


def sparks(curve: Sequence[tuple[int, float]], top: float) -> str:
    """A curve as a row of blocks from 0 to `top`, even in steps; higher is cut off."""
    if top <= 0.0:
        return SPARKS[0] * SPARK_WIDTH
    first, last = curve[0][0], curve[-1][0]
    row, at = [], 0
    for column in range(SPARK_WIDTH):
        step = first + (last - first) * column / (SPARK_WIDTH - 1)
        while at + 1 < len(curve) and curve[at + 1][0] <= step:
            at += 1
        height = min(max(curve[at][1] / top, 0.0), 1.0)
        row.append(SPARKS[round(height * (len(SPARKS) - 1))])
    return "".join(row)
