"""The live view of one job: its stages as they come, until it ends; Ctrl-C holds, twice cancels."""

import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service.cli.door import ServerDoor
from service.cli.local import ensure_server
from service.cli.render import (
    STAGE_COLUMNS,
    STATE_STYLES,
    number,
    short,
    span,
    stage_row,
)
from service.domain.errors import Conflict, Unreachable
from service.settings import Settings

FINAL = frozenset({"succeeded", "failed", "cancelled", "timed_out"})
POLL_SECONDS = 0.3
BAR_WIDTH = 28


class Watch:
    """Looks at a job until nothing more happens by itself."""

    def __init__(self, settings: Settings, door: ServerDoor, job_id: str, *, holds: bool) -> None:
        self._settings = settings
        self._door = door
        self._job_id = job_id
        self._holds = holds  # whether Ctrl-C means the job, or only this view
        self._console = Console(stderr=True, highlight=False)
        self._told: set[str] = set()
        self._interrupts = 0

    @property
    def was_interrupted(self) -> bool:
        """True after Ctrl-C."""
        return self._interrupts > 0

    def run(self) -> dict[str, Any]:
        """Watch to the end; return the last status."""
        if not self._console.is_terminal:
            return self._follow(None)
        with Live(console=self._console, refresh_per_second=8, transient=True) as live:
            return self._follow(live)

    def farewell(self, job: dict[str, Any]) -> str:
        """What is said after Ctrl-C."""
        name = f"{job['spec']['name']} {short(job['id'])}"
        if not self._holds:
            return f"{name} goes on; see it with: strata status {short(job['id'])}"
        if job["state"] == "held":
            return f"{name} is held; go on with: strata run --resume {short(job['id'])}"
        return f"{name} is {job['state']}"

    def print_end(self, status: dict[str, Any]) -> None:
        """Print the final table."""
        Console(highlight=False).print(_end_view(status))

    def _follow(self, live: Live | None) -> dict[str, Any]:
        while True:
            try:
                status = self._look()
                if live is not None:
                    live.update(_live_view(status))
                else:
                    self._tell_lines(status)
                job = status["job"]
                is_over = job["state"] in FINAL or job["state"] == "held"
                if is_over or (self.was_interrupted and not self._holds):
                    return status
                threading.Event().wait(POLL_SECONDS)
            except KeyboardInterrupt:
                self._interrupted()

    def _look(self) -> dict[str, Any]:
        """The job's status; a local server that died is started again."""
        try:
            return self._door.status(self._job_id)
        except Unreachable:
            if self._settings.url is not None:
                raise
            self._console.print("the local server is gone; starting it again", style="yellow")
            self._door = ensure_server(self._settings)
            return self._door.status(self._job_id)

    def _interrupted(self) -> None:
        self._interrupts += 1
        if not self._holds:
            return
        act = "hold" if self._interrupts == 1 else "cancel"
        try:
            self._door.client.post(f"{self._door.client.job(self._job_id)}/{act}")
        except Conflict:
            return  # it has ended meanwhile
        said = "stopping at a checkpoint; Ctrl-C again cancels" if act == "hold" else "cancelling"
        self._console.print(said, style="yellow")

    def _tell_lines(self, status: dict[str, Any]) -> None:
        """Where there is no terminal: a line for each thing that happens."""
        job = status["job"]
        self._once(f"{job['spec']['name']} {short(job['id'])} {_state(status)}")
        if job["state"] == "queued" and job["reason_text"]:
            self._once(f"waits: {job['reason_text']}")
        for stage in status["stages"]:
            place = f"stage {stage['index'] + 1}/{stage['count']} {stage['name']}"
            self._once(f"{place}: {stage['epochs']} epochs")
            if stage["seconds"] is not None:
                losses = f"loss {number(stage['loss_first'])} -> {number(stage['loss_last'])}"
                self._once(f"{place}: done, {losses}, {span(stage['seconds'])}")

    def _once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._console.print(line, soft_wrap=True)


def outcome_of(status: dict[str, Any]) -> dict[str, Any]:
    """How a job ended, as one object for machines."""
    job = status["job"]
    names = ("name", "kind", "epochs", "loss_first", "loss_last", "seconds")
    return {
        "id": job["id"],
        "name": job["spec"]["name"],
        "state": job["state"],
        "attempts": job["attempt"],
        "stages": [{name: stage[name] for name in names} for stage in status["stages"]],
        "metrics": job["metrics"],
        "checkpoint": status["checkpoint"]["ref"]["path"] if status["checkpoint"] else None,
        "seconds": seconds_of(job),
        "failure": job["failure"],
        "reason": job["reason_text"],
    }


def seconds_of(job: Mapping[str, Any]) -> float | None:
    """From a job's first start to its end; None while it has not ended."""
    if job["started_at"] is None or job["finished_at"] is None:
        return None
    begun, ended = (datetime.fromisoformat(job[k]) for k in ("started_at", "finished_at"))
    return (ended - begun).total_seconds()


def _state(status: dict[str, Any]) -> str:
    """The job's state; while its gang is being born, that."""
    job = status["job"]
    if job["state"] == "running" and status["attempts"]:
        attempt = status["attempts"][-1]
        again = f", attempt {attempt['number']}" if attempt["number"] > 1 else ""
        return ("starting" if attempt["started_at"] is None else "running") + again
    return str(job["state"])


def _head(status: dict[str, Any]) -> Text:
    job, state = status["job"], _state(status)
    style = STATE_STYLES.get(job["state"], "")
    return Text.assemble(
        (job["spec"]["name"], "bold"), " ", (short(job["id"]), "dim"), "  ", (state, style)
    )


def _stage_table(status: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in STAGE_COLUMNS:
        table.add_column(column, justify="left" if column in ("stage", "kind") else "right")
    for stage in status["stages"]:
        if stage["seconds"] is not None:
            table.add_row(*stage_row(stage))
    return table


def _live_view(status: dict[str, Any]) -> RenderableType:
    parts: list[RenderableType] = [_head(status)]
    if status["job"]["state"] == "queued":
        parts.append(Text(f"  waits: {status['job']['reason_text']}", "dim"))
    if any(stage["seconds"] is not None for stage in status["stages"]):
        parts.append(_stage_table(status))
    current = _current(status)
    if current is not None:
        parts.append(current)
    return Group(*parts)


def _current(status: dict[str, Any]) -> RenderableType | None:
    """The stage that trains: a bar, and its figures."""
    latest = status["latest"]
    if latest is None or status["job"]["state"] not in ("running", "stopping"):
        return None
    progress = latest["progress"]
    stage = next((s for s in status["stages"] if s["index"] == progress["stage_index"]), None)
    if stage is None:
        return None
    line = Table.grid(padding=(0, 2))
    line.add_row(
        Text(f"stage {stage['index'] + 1}/{stage['count']} {stage['name']}", "cyan"),
        ProgressBar(stage["epochs"], progress["epoch"], width=BAR_WIDTH),
        f"epoch {progress['epoch']}/{stage['epochs']}",
        f"loss {number(progress['loss'])}",
        f"{progress['samples_per_second']:,.0f} samples/s",
        f"ETA {span(progress['eta_seconds'])}",
    )
    return line


def _end_view(status: dict[str, Any]) -> RenderableType:
    parts: list[RenderableType] = [_head(status), _stage_table(status)]
    job = status["job"]
    if job["metrics"]:
        figures = Table.grid(padding=(0, 2))
        for name, value in job["metrics"].items():
            unit = " %" if name.endswith(("error", "accuracy")) else ""
            figures.add_row(Text(name.replace("_", " "), "dim"), f"{value:.4g}{unit}")
        parts += [Text(), figures]
    facts = Table.grid(padding=(0, 2))
    if status["checkpoint"]:
        path = Text(status["checkpoint"]["ref"]["path"], overflow="fold")
        facts.add_row(Text("checkpoint", "dim"), path)
    facts.add_row(Text("attempts", "dim"), str(job["attempt"]))
    facts.add_row(Text("time", "dim"), span(seconds_of(job)))
    parts += [Text(), facts]
    return Group(*parts)
