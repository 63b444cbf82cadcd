"""The live view of a matrix: one line for each of its jobs, until none of them moves any more."""

import threading
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from service.cli.door import Door, ServerDoor
from service.cli.live import FINAL
from service.cli.local import ensure_server
from service.cli.render import STATE_STYLES, number, short
from service.domain.errors import Conflict, Unreachable
from service.settings import Settings

POLL_SECONDS = 0.5
PAGE = 500  # jobs in one answer; all members are mostly among the newest
ROWS_AROUND = 3  # head, foot, and the cursor's line
MOVING_FIRST = {"running": 0, "stopping": 0, "queued": 2}  # the others have ended: 1
COLUMNS = ("", "state", "stage", "epoch", "loss", "test error")


class MatrixWatch:
    """Looks at jobs until each of them has ended or is held."""

    def __init__(
        self, settings: Settings, door: ServerDoor, ids: Sequence[str], *, holds: bool
    ) -> None:
        self.door = door  # another one after the local server was started again
        self._settings = settings
        self._ids = list(ids)
        self._holds = holds  # whether Ctrl-C means the jobs, or only this view
        self._console = Console(stderr=True, highlight=False)
        self._told: dict[str, str] = {}
        self._interrupts = 0

    @property
    def was_interrupted(self) -> bool:
        """True after Ctrl-C."""
        return self._interrupts > 0

    def run(self) -> list[dict[str, Any]]:
        """Watch to the end; return the jobs as they then are, in the order of their ids."""
        if not self._console.is_terminal:
            return self._follow(None)
        with Live(console=self._console, refresh_per_second=4, transient=True) as live:
            return self._follow(live)

    def farewell(self, jobs: Sequence[dict[str, Any]]) -> str:
        """What is said after Ctrl-C."""
        left = [job for job in jobs if job["state"] not in FINAL]
        count = f"{len(left)} of {len(jobs)} jobs"
        if not self._holds:
            return f"{count} go on; see them with: strata jobs"
        held = " ".join(short(job["id"]) for job in left if job["state"] == "held")
        return f"{count} are held; go on with: strata release {held}"

    def _follow(self, live: Live | None) -> list[dict[str, Any]]:
        while True:
            try:
                jobs = self._look()
                if live is not None:
                    live.update(self._table(jobs))
                else:
                    self._tell(jobs)
                is_over = all(job["state"] in FINAL or job["state"] == "held" for job in jobs)
                if is_over or (self.was_interrupted and not self._holds):
                    return jobs
                threading.Event().wait(POLL_SECONDS)
            except KeyboardInterrupt:
                self._interrupted()

    def _look(self) -> list[dict[str, Any]]:
        """The jobs; a local server that died is started again."""
        try:
            return found_jobs(self.door, self._ids)
        except Unreachable:
            if self._settings.url is not None:
                raise
            self._console.print("the local server is gone; starting it again", style="yellow")
            self.door = ensure_server(self._settings)
            return found_jobs(self.door, self._ids)

    def _interrupted(self) -> None:
        self._interrupts += 1
        if not self._holds:
            return
        act = "hold" if self._interrupts == 1 else "cancel"
        said = (
            "stopping all at checkpoints; Ctrl-C again cancels" if act == "hold" else "cancelling"
        )
        self._console.print(said, style="yellow")
        for job_id in reversed(self._ids):  # the last ones still wait: they do not start meanwhile
            try:
                self.door.client.post(f"{self.door.client.job(job_id)}/{act}")
            except Conflict:
                continue  # it has ended

    def _table(self, jobs: Sequence[dict[str, Any]]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        shared = _shared_start([job["spec"]["name"] for job in jobs])
        table.add_column(f"{shared}...")  # the one that a narrow terminal cuts
        for column in COLUMNS:
            table.add_column(column, no_wrap=True)
        for job in self._that_fit(jobs):
            name = job["spec"]["name"].removeprefix(shared)
            style = STATE_STYLES.get(job["state"], "")
            error = job["metrics"].get("test_error")
            table.add_row(
                Text(name, no_wrap=True, overflow="ellipsis"),
                Text(short(job["id"]), "dim"),
                Text(job["state"], style),
                *self._place(job),
                "" if error is None else f"{error:.2f} %",
            )
        ended = sum(job["state"] in FINAL for job in jobs)
        table.caption = f"{ended} of {len(jobs)} have ended"
        return table

    def _that_fit(self, jobs: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """All jobs; where the terminal is too low for them, those that move come first."""
        space = max(1, self._console.height - ROWS_AROUND)
        if len(jobs) <= space:
            return jobs
        return sorted(jobs, key=lambda job: MOVING_FIRST.get(job["state"], 1))[:space]

    def _place(self, job: Mapping[str, Any]) -> tuple[str, str, str]:
        """Where a running job is: stage, epoch, loss."""
        if job["state"] not in ("running", "stopping"):
            return "", "", ""
        status = self.door.status(job["id"])
        latest = status["latest"]
        if latest is None:
            return "starting", "", ""
        progress = latest["progress"]
        stages = {stage["index"]: stage for stage in status["stages"]}
        stage = stages.get(progress["stage_index"])
        if stage is None:
            return "", "", number(progress["loss"])
        place = f"{stage['index'] + 1}/{stage['count']} {stage['name']}"
        return place, f"{progress['epoch']}/{stage['epochs']}", number(progress["loss"])

    def _tell(self, jobs: Sequence[dict[str, Any]]) -> None:
        """Where there is no terminal: a line whenever a job begins or ends."""
        ended = sum(job["state"] in FINAL for job in jobs)
        for job in jobs:
            if job["state"] == "queued" or self._told.get(job["id"]) == job["state"]:
                continue
            self._told[job["id"]] = job["state"]
            error = job["metrics"].get("test_error")
            figure = "" if error is None else f", test error {error:.2f} %"
            line = f"{ended}/{len(jobs)} {job['spec']['name']} {short(job['id'])}"
            self._console.print(f"{line} {job['state']}{figure}", soft_wrap=True)


def _shared_start(names: Sequence[str]) -> str:
    """The words with which all names begin, mostly those of the matrix; each keeps its last one."""
    if len(names) < 2:
        return ""
    words = [name.split("-")[:-1] for name in names]
    same = takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
    return "".join(f"{column[0]}-" for column in same)


def found_jobs(door: Door, ids: Sequence[str]) -> list[dict[str, Any]]:
    """The jobs with these ids in their order; the newest pages are asked for until all are seen."""
    wanted = set(ids)
    found: dict[str, dict[str, Any]] = {}
    before: int | None = None
    while len(found) < len(wanted):
        page = door.jobs(limit=PAGE, before=before)
        if not page:
            break
        found |= {job["id"]: job for job in page if job["id"] in wanted}
        before = page[-1]["seq"]
    return [found[job_id] for job_id in ids if job_id in found]
