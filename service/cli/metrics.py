"""`strata metrics`: the curves of one job, as a list, in blocks, drawn, or for TensorBoard."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.compare import sparks
from service.cli.door import CURVE_LINES, Door, open_door
from service.cli.render import number, output_option, print_json, print_table, short
from service.cli.workers_side import workers_side
from service.domain.errors import BadInput, NotFound
from service.settings import read_settings

if TYPE_CHECKING:  # imported once there is something to show
    from service.control.series import Line, Series

LINES_MAX = 100_000  # seven hours of them; this process holds them all, in about 200 MB


@click.command()
@click.argument("job")
@click.argument("names", nargs=-1)
@click.option("--layer", help="Only figures of this layer, such as its grad_norm.")
@click.option("--stage", help="Only this stage, by its name or its number, which is from 1.")
@click.option("--attempt", type=click.IntRange(min=1), help="Only what this attempt told.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the curves into a .png, or with the table into an .html file.",
)
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the curves as TensorBoard's event file into a folder of the job's in this one.",
)
@output_option
def metrics(  # noqa: PLR0913  # an argument for each option
    job: str,
    names: tuple[str, ...],
    layer: str | None,
    stage: str | None,
    attempt: int | None,
    plot: Path | None,
    tensorboard: Path | None,
    output: str,
) -> None:
    """List what was measured of a JOB; with NAMES show those curves. 'loss', 'grad_norm.*', '*'.

    Steps that an attempt repeated after a checkpoint count once, as they were told last.
    """
    if plot is not None and plot.suffix not in (".png", ".html"):
        raise BadInput(f"{plot} is neither .png nor .html", place="--plot", remedy="name one")
    found = read_curves(open_door(read_settings()), job, stage=stage, attempt=attempt)
    picked = found.picked(names, layer)
    if output == "json":
        print_json(found.as_json(picked, with_points=bool(names)))
    elif names:
        print_table(_CURVE_COLUMNS, [_curve_row(found, one) for one in picked])
    else:
        print_table(("figure", "stages", "points", "last"), _listed(found, picked))
    if plot is not None:
        from service.cli.plot import draw_series

        draw_series([(found.stage_name(one), one) for one in picked], plot)
        click.echo(f"drawn: {plot}", err=True)
    if tensorboard is not None:
        click.echo(f"written: {_export(found, picked, tensorboard)}", err=True)


class Curves:
    """A job's series with the names of its stages."""

    def __init__(self, job: Mapping[str, Any], stages: Mapping[int, str], lines: "list[Line]"):
        from service.control.series import series_of

        self.job = job
        self.series = series_of(lines)
        self._stages = stages

    def stage_name(self, series: "Series") -> str:
        """The name of a series' stage."""
        return self._stages.get(series.stage_index, str(series.stage_index + 1))

    def picked(self, names: Sequence[str], layer: str | None) -> "list[Series]":
        """The series of these names.

        Raises:
            NotFound: there is none.
        """
        from service.control.series import chosen

        picked = chosen(self.series, names, layer)
        if not picked:
            wanted = " ".join(names) or "anything"
            of_layer = "" if layer is None else f" of layer {layer}"
            raise NotFound(
                f"nothing measured of {self.job['id']} is called {wanted}{of_layer}",
                remedy="strata metrics JOB lists what there is",
            )
        return picked

    def as_json(self, picked: "Sequence[Series]", *, with_points: bool) -> dict[str, Any]:
        """The series for machines."""
        return {
            "job_id": self.job["id"],
            "series": [
                {
                    "name": one.name,
                    "stage": self.stage_name(one),
                    "num_points": len(one.points),
                    "last": one.last,
                    "lowest": one.lowest,
                    "highest": one.highest,
                    **({"points": [(p.step, p.value) for p in one.points]} if with_points else {}),
                }
                for one in picked
            ],
        }


def read_curves(door: Door, ref: str, *, stage: str | None, attempt: int | None) -> Curves:
    """Ask for all that was measured of a job, LINES_MAX lines at most.

    Raises:
        NotFound: nothing was measured yet, or there is no such stage.
    """
    status = door.status(ref)
    job, stages = status["job"], {one["index"]: one["name"] for one in status["stages"]}
    lines: list[dict[str, Any]] = []
    while len(lines) < LINES_MAX:
        page = door.curves(job["id"], before=lines[0]["id"] if lines else None)
        lines[:0] = page
        if len(page) < CURVE_LINES:
            break
    else:
        click.echo(f"strata: only the newest {len(lines)} lines are shown", err=True)
    index = None if stage is None else _stage_index(stages, stage)
    told = [_line(line) for line in lines if attempt in (None, line["attempt"])]
    told = [line for line in told if index in (None, line.stage_index)]
    if not told:
        raise NotFound(f"nothing was measured yet of {job['id']}, or of what was asked for of it")
    return Curves(job, stages, told)


def _stage_index(stages: Mapping[int, str], wanted: str) -> int:
    for index, name in stages.items():
        if wanted in (name, str(index + 1)):
            return index
    known = ", ".join(stages.values()) or "none"
    raise NotFound(f"there is no stage {wanted!r} yet", remedy=f"there are: {known}")


def _line(line: Mapping[str, Any]) -> "Line":
    from service.control.series import Line
    from workers.contract.reports import FIGURES

    progress = line["progress"]
    figures = {name: progress[name] for name in FIGURES} | progress["metrics"]
    return Line(
        attempt=line["attempt"],
        stage_index=progress["stage_index"],
        step=progress["step"],
        at_seconds=datetime.fromisoformat(line["at"]).timestamp(),
        values={name: _figure(value) for name, value in figures.items()},
    )


def _figure(value: float | str | None) -> float | None:
    return None if value is None else float(value)  # JSON has no infinity: it comes as text


_CURVE_COLUMNS = ("figure", "stage", "lowest to highest", "first", "last", "lowest", "highest")


def _curve_row(found: Curves, series: "Series") -> tuple[object, ...]:
    low, high = series.lowest, series.highest
    shifted = [(point.step, point.value - low) for point in series.points]
    ends = (series.points[0].value, series.last, low, high)
    blocks = sparks(shifted, high - low)
    return (series.name, found.stage_name(series), blocks, *map(number, ends))


def _listed(found: Curves, picked: "Sequence[Series]") -> list[tuple[object, ...]]:
    """One row for each name, whatever stages have it; one for a figure of many layers."""
    families: dict[str, list[Series]] = {}
    for one in picked:
        families.setdefault(f"{one.figure}.*" if one.layer else one.figure, []).append(one)
    rows: list[tuple[object, ...]] = []
    for family, ones in families.items():
        stages = list(dict.fromkeys(map(found.stage_name, ones)))
        where = stages[0] if len(stages) == 1 else f"{len(stages)}: {stages[0]} to {stages[-1]}"
        num_layers = len({one.name for one in ones})
        name, last = ones[0].name, number(ones[-1].last)
        if num_layers > 1:
            name, last = family, f"{number(ones[0].last)} to {last}, of {num_layers} layers"
        rows.append((name, where, sum(len(one.points) for one in ones), last))
    return rows


def _export(found: Curves, picked: "Sequence[Series]", folder: Path) -> Path:
    """Write one event file; a later export of the job replaces it.

    Raises:
        BadInput: it can't be written, or its library is not installed.
    """
    by_moment: dict[tuple[int, float], dict[str, float]] = {}
    for one in picked:
        for point in one.points:
            values = by_moment.setdefault((point.step, point.at_seconds), {})
            values[f"{found.stage_name(one)}/{one.name}"] = point.value
    event_file, _ = workers_side("workers.telemetry.event_file", "--tensorboard", extra="plot")
    below = folder / f"{found.job['spec']['name']}-{short(found.job['id'])}"
    try:
        for earlier in below.glob(f"*{event_file.SUFFIX}"):
            earlier.unlink()
        file = event_file.EventFile(below)
        for step, at_seconds in sorted(by_moment):
            file.add(at_seconds, step, by_moment[step, at_seconds])
        file.close()
    except OSError as error:
        raise BadInput(f"can't be written: {error.strerror}", place=str(below)) from error
    return below
