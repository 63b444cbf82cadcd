"""The gang in Ray's terms: a placement group on the planned nodes, and a rank actor in each bundle.

Everything here belongs to the driver that makes it: when the driver dies, Ray ends the ranks and
frees the group. A detached placement group would outlive it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from workers.contract.launch import LaunchSpec
from workers.contract.reports import ProfileOrder, StopOrder
from workers.contract.wire import JobId
from workers.gang.rank import Rank, RankStatus
from workers.gang.watchdog import SILENT

NAMESPACE = "strata"  # an anonymous one would never find its actors again
STACKS_SECONDS = 5.0  # for all ranks together


def driver_name(job_id: JobId, attempt: int) -> str:
    """The driver's name in Ray."""
    return f"gang/{job_id}/{attempt}"


def rank_name(job_id: JobId, attempt: int, rank: int) -> str:
    """A rank's name in Ray."""
    return f"rank/{job_id}/{attempt}/{rank}"


class RayGang:
    """N rank actors, their polls and their ends."""

    def __init__(self, launch: LaunchSpec, entry: str) -> None:
        self._launch = launch
        self._group = placement_group(
            [_bundle(rank.cpus, rank.gpus) for rank in launch.ranks],
            bundle_label_selector=[{"ray.io/node-id": rank.node_id} for rank in launch.ranks],
        )
        actor_class = ray.remote(concurrency_groups={"control": 2})(Rank)
        self._ranks = [
            actor_class.options(
                name=rank_name(launch.job_id, launch.attempt, rank.rank),
                namespace=NAMESPACE,
                num_cpus=rank.cpus,
                num_gpus=rank.gpus,
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=rank.rank
                ),
            ).remote(launch.model_dump_json(), rank.rank, entry)
            for rank in launch.ranks
        ]
        self._meeting = self._control(0, "meeting_point")
        self._ends: list[Any] = []
        self._polls: dict[int, Any] = {}
        self._dead: dict[int, RayError] = {}

    def try_meet(self) -> None:
        """Let the ranks train as soon as rank 0 knows where to meet."""
        if self._ends:
            return
        ready, _ = ray.wait([self._meeting], timeout=0)
        if not ready:
            return
        try:
            place = ray.get(self._meeting)
        except RayError as error:
            self._dead[0] = error
            return
        self._ends = [rank.train.remote(place) for rank in self._ranks]

    def poll(
        self, order: StopOrder | None, profile: ProfileOrder | None, wait_seconds: float = 0.0
    ) -> dict[int, RankStatus]:
        """Ask every rank that is not being asked; return the answers that come in time.

        A rank that answers late delays nobody else. Rank 0 alone is told to trace.
        """
        order_json = order.model_dump_json() if order else None
        profile_json = profile.model_dump_json() if profile else None
        for rank in range(len(self._ranks)):
            if rank not in self._polls:
                words = (order_json,) if rank > 0 else (order_json, profile_json)
                self._polls[rank] = self._control(rank, "poll", *words)
        asked = list(self._polls.values())
        ready, _ = ray.wait(asked, num_returns=len(asked), timeout=wait_seconds)
        answers: dict[int, RankStatus] = {}
        for rank, ref in list(self._polls.items()):
            if ref in ready:
                del self._polls[rank]
                try:
                    answers[rank] = RankStatus.model_validate_json(ray.get(ref))
                except ActorUnavailableError:
                    continue  # a connection broke, not a rank
                except RayError as error:  # before it trains, this alone tells of its death
                    self._dead[rank] = error
        return answers

    def ends(self, wait_seconds: float) -> dict[int, str | RayError]:
        """The ranks that have ended: with the text of a RankEnd, or with Ray's error."""
        refs = self._ends or [self._meeting]
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=wait_seconds)
        found: dict[int, str | RayError] = dict(self._dead)
        for rank, ref in enumerate(self._ends):
            if ref in ready:
                try:
                    found[rank] = ray.get(ref)
                except RayError as error:
                    found[rank] = error
        return found

    def stacks(self) -> Mapping[int, Sequence[str]]:
        """Where every thread of every rank is, as far as they answer."""
        refs = [self._control(rank, "stacks") for rank in range(len(self._ranks))]
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=STACKS_SECONDS)
        found: dict[int, Sequence[str]] = dict.fromkeys(range(len(refs)), (SILENT,))
        for rank, ref in enumerate(refs):
            if ref in ready:
                with suppress(RayError):  # it died meanwhile
                    found[rank] = ray.get(ref)
        return found

    def end(self) -> None:
        """Kill what lives and free the nodes."""
        for rank in self._ranks:
            ray.kill(rank)
        remove_placement_group(self._group)

    def _control(self, rank: int, method: str, *words: Any) -> Any:
        call = getattr(self._ranks[rank], method)
        return call.options(concurrency_group="control").remote(*words)


def lost_nodes(launch: LaunchSpec) -> frozenset[str]:
    """The planned nodes that Ray no longer counts among the living."""
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return frozenset(rank.node_id for rank in launch.ranks) - alive


def _bundle(cpus: int, gpus: int) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
