"""A real agent on a real Ray of its own, before a stand-in for the service."""

import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.waiting import eventually
from tests.workers.gang.launches import launch
from tests.workers.gang.standin import folder_of
from tests.workers.service_standin import StandIn
from workers.agent.local_ray import living_ray
from workers.contract.launch import Deadlines, LaunchSpec, RankPlacement
from workers.contract.paths import attempt_folder
from workers.contract.wire import JobId, uuid7

DEADLINES = Deadlines(heartbeat_seconds=0.2)
REPOSITORY = Path(__file__).parents[2]


@dataclass
class RayHouse:
    """One Ray for all tests; agents come and go."""

    folder: Path
    service: StandIn
    agents: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """The state folder."""
        return self.folder / "home"

    @property
    def storage(self) -> Path:
        """The storage root."""
        return self.folder / "storage"

    def start_agent(self) -> subprocess.Popen[bytes]:
        """Start one more, and wait until it has spoken."""
        spoken = len(self.service.syncs)
        words = [str(self.home), self.service.url, str(self.storage)]
        with self.log_of(len(self.agents)).open("wb") as log:
            agent = subprocess.Popen(
                [sys.executable, "-m", "tests.workers.run_agent", *words],
                cwd=REPOSITORY,
                # Ranks find the stand-in training by the path, and leave the machine to others.
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        self.agents.append(agent)
        eventually(lambda: len(self.service.syncs) > spoken, "the agent speaks")
        return agent

    def log_of(self, agent: int) -> Path:
        """What the agent had to say, counted from 0."""
        return self.folder / f"agent-{agent}.log"

    @property
    def node_id(self) -> str:
        """Ray's only node."""
        return str(self.service.syncs[-1]["nodes"][0]["node_id"])

    def plan(self, mode: str = "", ranks: int = 2, **changes: Any) -> LaunchSpec:
        """An attempt of a new job, not yet wanted."""
        words = {
            "job_id": JobId(uuid7(time.time_ns() // 1_000_000, secrets.randbits(80))),
            "env": {"MODE": mode},
            "deadlines": DEADLINES,
            "ranks": tuple(
                RankPlacement(rank=rank, node_id=self.node_id, cpus=1, gpus=0)
                for rank in range(ranks)
            ),
        }
        return launch(self.storage, **{**words, **changes})

    def want(self, plan: LaunchSpec) -> "Gang":
        """Let the service want it."""
        with self.service.changed:
            self.service.wanted[f"{plan.job_id}/{plan.attempt}"] = plan
            self.service.changed.notify_all()
        return Gang(self, plan)

    def processes(self, word: str) -> list[psutil.Process]:
        """The processes of this house's Ray whose title has the word."""
        ray = living_ray(self.home)
        assert ray is not None
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if _session(process.pid) == ray.pid
            and process.info["cmdline"]
            and process.info["cmdline"][0].startswith("ray::")
            and word in process.info["cmdline"][0]
        ]

    def tidy(self) -> None:
        """Let everything of a test end, whatever became of it; one agent goes on."""
        service = self.service
        with service.changed:
            service.is_away = service.is_closed = False
            service.stop = None
            service.kills = [
                {"job_id": one.job_id, "attempt": one.attempt, "reason": "lost"}
                for one in service.wanted.values()
            ]
            service.changed.notify_all()
        eventually(lambda: not self.processes("Driver"), "no gang lives", 20.0)
        with service.changed:
            service.wanted, service.claimed, service.kills = {}, {}, []
            service.told = {}
            service.changed.notify_all()

    def close(self) -> None:
        """End the agents."""
        for agent in self.agents:
            agent.kill()
            agent.wait()


@dataclass(frozen=True)
class Gang:
    """One attempt, as the test sees it."""

    house: RayHouse
    plan: LaunchSpec

    @property
    def key(self) -> str:
        return f"{self.plan.job_id}/{self.plan.attempt}"

    @property
    def facts(self) -> list[dict[str, Any]]:
        """What the service was told, in the order in which it came."""
        return self.house.service.told.get(self.key, [])

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        return [fact["body"] for fact in self.facts if fact["body"]["fact"] == kind]

    def wait_counted(self, more: int = 1) -> None:
        """Wait until it has taken some more steps, and told of it."""
        seen = len(self.bodies("noticed"))
        self.house.service.wait(
            lambda: len(self.bodies("noticed")) >= seen + more and self.bodies("gang_started"),
            "the gang counts",
        )

    def wait_ended(self) -> dict[str, Any]:
        """Wait for its outcome."""
        self.house.service.wait(lambda: self.bodies("ended"), f"{self.key} ends")
        outcome: dict[str, Any] = self.bodies("ended")[0]["outcome"]
        return outcome

    def go(self) -> None:
        """Let it come to a good end."""
        (folder_of(self.plan) / "go").touch()

    def pid(self, rank: int) -> int:
        return int((folder_of(self.plan) / f"rank-{rank}").read_text())

    def kill(self, rank: int) -> None:
        os.kill(self.pid(rank), signal.SIGKILL)

    def state(self) -> str | None:
        """What the agent said of it last."""
        gangs = self.house.service.syncs[-1]["gangs"]
        states = [gang["state"] for gang in gangs if gang["job_id"] == self.plan.job_id]
        return states[0] if states else None

    def files(self, kind: str) -> list[Path]:
        """Its files of "facts" or of "logs/rank-0"."""
        folder = self.house.storage / attempt_folder(self.plan.job_id, self.plan.attempt) / kind
        return sorted(folder.iterdir()) if folder.exists() else []


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1
