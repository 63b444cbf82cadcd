"""How things look: tables for people, JSON for machines, one decorator for the choice."""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

ID_CHARS = 8  # ids made in the same minutes begin alike, so their ends are shown
F = TypeVar("F", bound=Callable[..., Any])

STATE_STYLES = {
    "succeeded": "green",
    "running": "cyan",
    "stopping": "yellow",
    "held": "yellow",
    "failed": "red",
    "timed_out": "red",
    "cancelled": "dim",
}


def output_option(command: F) -> F:
    """Add `-o table|json`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="For people, or for machines.",
    )(command)


def print_json(value: Any) -> None:
    """Print one JSON value."""
    click.echo(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table as wide as the terminal; where there is none, as wide as it needs."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def _cell(value: object) -> str:
    from rich.markup import escape

    text = "-" if value is None or value == "" else str(value)
    style = STATE_STYLES.get(text)
    return f"[{style}]{text}[/{style}]" if style else escape(text)


def short(job_id: str) -> str:
    """An id as it is shown."""
    return job_id[-ID_CHARS:]


def ago(instant: str | None) -> str:
    """An instant as time since then."""
    if instant is None:
        return "-"
    return span((datetime.now(UTC) - datetime.fromisoformat(instant)).total_seconds())


def span(seconds: float | None) -> str:
    """Seconds as 45s, 12m, 3h or 2d; two units where it is short."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def number(value: float | None) -> str:
    """A figure with four digits."""
    return "-" if value is None else f"{value:.4g}"


def spread(mean: float, sd: float | None) -> str:
    """Format a mean over several, with its standard deviation where there is one."""
    return number(mean) + ("" if sd is None else f" ± {sd:.2g}")


def counted(number: int, what: str) -> str:
    """Format a number of things, such as 1 node or 2 nodes."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def size(num_bytes: int) -> str:
    """Bytes in units of 1024."""
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


STAGE_COLUMNS = ("stage", "kind", "epochs", "first loss", "last loss", "time")


def stage_row(stage: dict[str, Any]) -> tuple[str, ...]:
    """A stage as a row under STAGE_COLUMNS."""
    return (
        stage["name"],
        stage["kind"],
        str(stage["epochs"]),
        number(stage["loss_first"]),
        number(stage["loss_last"]),
        span(stage["seconds"]),
    )
