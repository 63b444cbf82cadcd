"""The agent: tells the service what lives on its Ray cluster, and makes it what it should be.

It is level-triggered. The service's answer lists the gangs that should be here: what nobody has
claimed is claimed and started, what is claimed and does not live is told as absent, and only what a
stop names is killed. The agent itself keeps nothing that would be missed after a restart.
"""

import logging
import secrets
import signal
import threading
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import ray

from workers.agent import gangs, local_ray
from workers.agent.gangs import GangKey
from workers.agent.nodes import nodes_seen
from workers.agent.ray_node import JoinedNode, RayFailed
from workers.agent.service_client import Away, Refused, Replaced, ServiceClient
from workers.contract.inventory import (
    CheckpointPath,
    GangSeen,
    GangState,
    GangWanted,
    NodeSeen,
    Sync,
    SyncAnswer,
)
from workers.contract.launch import Claim
from workers.contract.wire import uuid7
from workers.gang.rank import TRAIN
from workers.gang.ray_gang import NAMESPACE

LONG_POLL_SECONDS = 20.0
WATCH_SECONDS = 0.1  # how late a gang's end is noticed
NODES_SECONDS = 2.0  # how late a node's end is noticed
AWAY_SECONDS = 1.0  # between two tries while the service is away

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AgentSettings:
    """What an agent must know."""

    name: str
    service_urls: tuple[str, ...]
    token: str
    storage_url: str
    ray_address: str | None = None  # None: the state folder's local Ray; see `environment` there
    joins: bool = False  # start a node of the Ray at `ray_address` here first
    home: Path | None = None
    local_cpus: int = 2
    entry: str = TRAIN  # what ranks call, as module:function


def run_agent(settings: AgentSettings) -> None:
    """Work until SIGTERM; gangs live on.

    Raises:
        RayFailed: Ray can't be started or joined.
        Replaced: another agent has taken over the name.
    """
    for one in (signal.SIGTERM, signal.SIGINT):  # to join may take a minute
        signal.signal(one, _end_at_once)
    node = _join_ray(settings)
    try:
        agent = Agent(settings, node)
        signal.signal(signal.SIGTERM, lambda *_: agent.stop())
        signal.signal(signal.SIGINT, lambda *_: agent.stop())
        agent.run()
    finally:
        ray.shutdown()
        if node is not None:
            node.end()


def _end_at_once(*_: object) -> None:
    """Unwind; as the first process of a container it would not even be ended by the signal."""
    raise SystemExit(0)


def _join_ray(settings: AgentSettings) -> JoinedNode | None:
    address, node = settings.ray_address, None
    if address is None:
        assert settings.home is not None
        address = local_ray.ensure_local_ray(settings.home, settings.local_cpus).address
    elif settings.joins:
        node = JoinedNode(address)
    try:
        _connect(address)
    except BaseException:
        if node is not None:
            node.end()
        raise
    return node


def _connect(address: str) -> None:
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RayFailed(
            f"the Ray at {address} can't be joined ({str(error).splitlines()[0]}); does a node of "
            "it run on this host, and are RAY_AUTH_MODE and its token those of the cluster?"
        ) from error


class Agent:
    """One agent process on a Ray cluster that it has joined."""

    def __init__(self, settings: AgentSettings, node: JoinedNode | None = None) -> None:
        self._settings = settings
        self._node = node  # that lives and dies with us
        self._client = ServiceClient(settings.name, settings.service_urls, settings.token)
        self._cluster_id = ray.get_runtime_context().get_session_name()
        # A newer boot's id sorts after an older one's.
        self._boot_id = uuid7(time.time_ns() // 1_000_000, secrets.randbits(80))
        self._lock = threading.Lock()  # one answer is carried out at a time
        self._revision = 0
        self._wanted: dict[GangKey, GangWanted] = {}
        self._unborn: dict[GangKey, str] = {}  # claimed and not started, with the reason
        self._pruned: list[CheckpointPath] = []
        self._fingerprint = ""
        self._stopping = threading.Event()
        self._trouble: Exception | None = None  # that ends this agent
        self._nodes: tuple[NodeSeen, ...] = ()

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()

    def run(self) -> None:
        """Ask and watch until stopped; raises Replaced, or what Ray has to say."""
        self._nodes = nodes_seen()
        asking = threading.Thread(target=self._ask, name="ask", daemon=True)
        asking.start()
        log.info("agent %s speaks for %s", self._settings.name, self._cluster_id)
        told = self._states()
        looked_at = time.monotonic()
        while not self._stopping.wait(WATCH_SECONDS):
            if self._node is not None and not self._node.is_alive:
                raise RayFailed("this agent's node of Ray has ended; the agent must start again")
            nodes = self._nodes
            if time.monotonic() - looked_at > NODES_SECONDS:
                nodes, looked_at = nodes_seen(), time.monotonic()
            states = self._states()
            if (states != told or nodes != self._nodes) and self._sync(0.0):
                told = states
            self._nodes = nodes
        if self._trouble is not None:
            raise self._trouble

    def _ask(self) -> None:
        """Keep one question open at the service, so that its answer comes at once."""
        try:
            while not self._stopping.is_set():
                if not self._sync(LONG_POLL_SECONDS):
                    self._stopping.wait(AWAY_SECONDS)
        except Exception as error:  # noqa: BLE001  # an agent that does not ask must not seem alive
            self._trouble = error
            self._stopping.set()

    def _sync(self, wait_seconds: float) -> bool:
        sync = Sync(
            cluster_id=self._cluster_id,
            boot_id=self._boot_id,
            nodes=self._nodes,
            gangs=self._seen(),
            pruned=tuple(self._pruned),
            known=self._fingerprint,
            wait_seconds=wait_seconds,
        )
        try:
            answer = self._client.sync(sync)
        except Replaced as end:
            self._trouble = end
            self._stopping.set()
            return False
        except (Away, Refused, ValueError) as trouble:
            log.warning("no sync: %s", trouble)
            return False
        with self._lock:
            return self._carry_out(answer, sync)

    def _states(self) -> Mapping[GangKey, GangState]:
        """What is to be told of every claimed gang that should be here."""
        with self._lock:
            claimed = [key for key, one in self._wanted.items() if not one.unclaimed]
        alive = gangs.living()  # looked at later: a gang that starts meanwhile is not absent
        return {key: self._state(key, alive) for key in sorted(claimed)}

    def _state(self, key: GangKey, alive: Container[GangKey]) -> GangState:
        if key in self._unborn:
            return GangState.UNBORN
        return GangState.ALIVE if key in alive else GangState.ABSENT

    def _seen(self) -> tuple[GangSeen, ...]:
        return tuple(
            GangSeen(
                job_id=key.job_id,
                attempt=key.attempt,
                state=state,
                cause=self._unborn.get(key, ""),
            )
            for key, state in self._states().items()
        )

    def _carry_out(self, answer: SyncAnswer, sync: Sync) -> bool:
        """Make it so; an answer that a newer one has overtaken is dropped.

        Returns:
            False where a claim got no answer: it is worth asking again soon.
        """
        if answer.revision <= self._revision or self._stopping.is_set():
            return True
        self._revision, self._fingerprint = answer.revision, answer.fingerprint
        told = set(sync.pruned)
        self._pruned = [path for path in self._pruned if path not in told]
        self._wanted = {GangKey(one.job_id, one.attempt): one for one in answer.gangs}
        self._unborn = {key: why for key, why in self._unborn.items() if key in self._wanted}
        for key, one in list(self._wanted.items()):
            if one.unclaimed and not self._launch(key):
                self._fingerprint = ""  # the same answer will be news again
        alive = gangs.living() if answer.stops else {}
        for stop in answer.stops:
            key = GangKey(stop.job_id, stop.attempt)
            if key in alive:
                log.info("killing attempt %d of %s: %s", key.attempt, key.job_id, stop.reason)
                gangs.kill(alive[key])
        for path in answer.prune:
            if path not in self._pruned and gangs.prune(self._settings.storage_url, path):
                self._pruned.append(path)
        return self._fingerprint != ""

    def _launch(self, key: GangKey) -> bool:
        """Claim an attempt and start its gang; from the claim on it is ours to account for.

        Returns:
            False where the service did not answer.
        """
        token, token_sha256 = gangs.new_token()
        claim = Claim(
            boot_id=self._boot_id,
            job_id=key.job_id,
            attempt=key.attempt,
            token_sha256=token_sha256,
        )
        try:
            launch = self._client.claim(claim)
        except (Refused, ValueError) as trouble:
            log.warning("attempt %d of %s is not ours: %s", key.attempt, key.job_id, trouble)
            return True
        except Away as trouble:
            log.warning("no claim of attempt %d of %s: %s", key.attempt, key.job_id, trouble)
            return False
        missing = {rank.node_id for rank in launch.ranks} - {node.node_id for node in self._nodes}
        try:
            if missing:
                raise LookupError(f"its nodes {', '.join(sorted(missing))} are gone")
            gangs.start(launch, self._client.urls, token, self._settings.entry)
            log.info("started attempt %d of %s", key.attempt, key.job_id)
        except Exception as error:  # whatever Ray or the plan has; the service is told
            log.exception("attempt %d of %s was not started", key.attempt, key.job_id)
            self._unborn[key] = f"it can't be started: {error}"
        self._wanted[key] = GangWanted(job_id=key.job_id, attempt=key.attempt, unclaimed=False)
        return True
