"""Draws a comparison into a file: curves as .png, or curves and table as one .html page."""

import html
import io
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli.render import spread
from service.control.compare import Comparison
from service.domain.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCHES = (10.0, 6.0)
DOTS_PER_INCH = 120
COLOURS = 20  # of the map "tab20", each arm one; after that they come again with other dashes
DASHES = ("-", "--", ":", "-.")


def draw(compared: Comparison, path: Path) -> None:
    """Write the file that the path's ending asks for, .png or .html.

    Raises:
        BadInput: the library for it is not installed, or the file can't be written.
    """
    figure = _figure(compared)
    try:
        if path.suffix == ".png":
            figure.savefig(path, dpi=DOTS_PER_INCH)
        else:
            path.write_text(_page(compared, figure), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"can't be written: {error.strerror}", place=str(path)) from error


def _figure(compared: Comparison) -> "Figure":
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError:
        raise BadInput(
            "needs matplotlib, which is not installed",
            place="--plot",
            remedy="pip install 'strata[plot]'",
        ) from None
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab20"]
    for index, arm in enumerate(compared.arms):
        steps, losses = [step for step, _ in arm.curve], [loss for _, loss in arm.curve]
        dash = DASHES[index // COLOURS % len(DASHES)]
        axes.plot(steps, losses, dash, color=colours(index % COLOURS), label=arm.name)
    axes.set_xlabel("step of the fine-tuning")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0.0)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def _page(compared: Comparison, figure: "Figure") -> str:
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    svg = drawing.getvalue()
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
    return (
        '<!doctype html>\n<meta charset="utf-8">\n<title>strata compare</title>\n'
        "<style>body{font:14px sans-serif}td,th{text-align:left;padding:2px 12px 2px 0}</style>\n"
        f"<table>\n{_row('th', columns)}{''.join(_row('td', row) for row in rows)}</table>\n"
        f"{svg[svg.index('<svg') :]}"
    )


def _row(tag: str, cells: tuple[str, ...]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>\n"
