"""Draws curves into a file: as .png, or with a table as one .html page."""

import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli.render import number, spread
from service.control.compare import Comparison
from service.control.series import Series
from service.domain.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = (10.0, 6.0)
FIELD_INCHES = 3.0  # the height of one field where there are several
LAYERS_NAMED_MAX = 12  # in the legend of one field; a thousand would hide the field
LOG_FROM = 100.0  # times between the lowest and the highest value of a field of layers
FIELDS_MAX = 40  # one picture of 120 inches; more would be higher than some viewers show
DOTS_PER_INCH = 120
COLOURS = 20  # of the map "tab20", each arm one; after that they come again with other dashes
DASHES = ("-", "--", ":", "-.")


def draw(compared: Comparison, path: Path) -> None:
    """Write the file that the path's ending asks for, .png or .html.

    Raises:
        BadInput: the library for it is not installed, or the file can't be written.
    """
    figure = _empty_figure(INCHES)
    axes = figure.subplots()
    for index, arm in enumerate(compared.arms):
        _plot(axes, index, arm.curve, arm.name)
    axes.set_xlabel("step of the fine-tuning")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0.0)
    figure.legend(loc="outside right upper", fontsize="small")
    _write(figure, path, lambda: _arms_table(compared))


def draw_series(series: Sequence[tuple[str, Series]], path: Path) -> None:
    """Write series with the names of their stages, as `draw` does.

    A figure of the whole net has a field with a line for each stage; one of layers a field with a
    line for each layer.

    Raises:
        BadInput: they are too many, the library is not installed, or the file can't be written.
    """
    fields: dict[str, list[tuple[str, Series]]] = {}
    for stage, one in series:
        fields.setdefault(f"{one.figure}.*" if one.layer else one.name, []).append((stage, one))
    if len(fields) > FIELDS_MAX:
        raise BadInput(
            f"{len(fields)} figures don't fit on one page, {FIELDS_MAX} do",
            place="--plot",
            remedy="name fewer",
        )
    figure = _empty_figure((INCHES[0], FIELD_INCHES * len(fields)))
    all_axes = figure.subplots(len(fields), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, ones) in zip(all_axes, fields.items(), strict=True):
        is_of_layers = ones[0][1].layer is not None
        if is_of_layers:
            _draw_layers(axes, [one for _, one in ones])
        else:
            _draw_stages(axes, ones)
        axes.set_ylabel(name)
        place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
        axes.legend(fontsize="x-small", reverse=is_of_layers, **place)  # the input below
    all_axes[-1].set_xlabel("step")
    columns = ("figure", "stage", "last", "lowest", "highest")
    rows = [
        (one.name, stage, number(one.last), number(one.lowest), number(one.highest))
        for stage, one in series
    ]
    _write(figure, path, lambda: _table(columns, rows))


def _draw_stages(axes: "Axes", ones: Sequence[tuple[str, Series]]) -> None:
    for index, (stage, one) in enumerate(ones):
        _plot(axes, index, _curve(one), stage)


def _draw_layers(axes: "Axes", ones: Sequence[Series]) -> None:
    """Layers from dark to light, from the input up; a layer of several stages has a line in each.

    Where they lie far apart, as the gradients of a stuck net do, the scale is logarithmic.
    """
    from matplotlib import colormaps

    layers = list(dict.fromkeys(one.layer for one in ones))
    named = set(layers[:: max(1, -(-len(layers) // LAYERS_NAMED_MAX))]) | {layers[-1]}
    for one in ones:
        rank = layers.index(one.layer)
        label = str(one.layer) if one.layer in named else None
        named.discard(one.layer)
        colour = colormaps["viridis"](rank / max(1, len(layers) - 1))
        steps, values = zip(*_curve(one), strict=True)
        axes.plot(steps, values, color=colour, label=label)
    lowest, highest = min(one.lowest for one in ones), max(one.highest for one in ones)
    if lowest > 0.0 and highest > LOG_FROM * lowest:
        axes.set_yscale("log")


def _curve(one: Series) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in one.points]


def _write(figure: "Figure", path: Path, table: Callable[[], str]) -> None:
    try:
        if path.suffix == ".png":
            figure.savefig(path, dpi=DOTS_PER_INCH)
        else:
            path.write_text(_page(table(), figure), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"can't be written: {error.strerror}", place=str(path)) from error


def _plot(axes: "Axes", index: int, curve: Sequence[tuple[int, float]], label: str) -> None:
    from matplotlib import colormaps

    steps, values = [step for step, _ in curve], [value for _, value in curve]
    dash = DASHES[index // COLOURS % len(DASHES)]
    axes.plot(steps, values, dash, color=colormaps["tab20"](index % COLOURS), label=label)


def _empty_figure(inches: tuple[float, float]) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BadInput(
            "needs matplotlib, which is not installed",
            place="--plot",
            remedy="pip install 'strata[plot]'",
        ) from None
    return Figure(figsize=inches, layout="constrained")


def _arms_table(compared: Comparison) -> str:
    columns = ("arm", *compared.paths, "seeds", *compared.metrics, "epochs", "attempts")
    rows = [
        (
            arm.name,
            *(arm.recipe[path] for path in compared.paths),
            str(len(arm.seeds)),
            *(
                spread(figure.mean, figure.sd) if figure is not None else "-"
                for figure in (arm.metrics.get(name) for name in compared.metrics)
            ),
            arm.epochs,
            str(arm.attempts),
        )
        for arm in compared.arms
    ]
    return _table(columns, rows)


def _page(table: str, figure: "Figure") -> str:
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    svg = drawing.getvalue()
    return (
        '<!doctype html>\n<meta charset="utf-8">\n<title>strata</title>\n'
        "<style>body{font:14px sans-serif}td,th{text-align:left;padding:2px 12px 2px 0}</style>\n"
        f"{table}{svg[svg.index('<svg') :]}"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = "".join(_row("td", row) for row in rows)
    return f"<table>\n{_row('th', columns)}{lines}</table>\n"


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>\n"
