"""The containers of the rendered chart, as processes of this machine, before real servers.

PostgreSQL, a server of Redis's protocol, Ray with its token and Prometheus are real. While a job
trains, its leader is killed; the job does not notice.
"""

import json
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.grafana.dashboard import queries
from tests.deploy.chart import CI, Manifest, of_kind, render, tool
from tests.deploy.pods import BIN, Place, Running, start, wait_ready
from tests.deploy.service_port import ServicePort
from tests.redis_server import RedisServer
from tests.waiting import eventually
from workers.agent.ray_node import READY, ZERO_PORTS, client_port

pytestmark = [pytest.mark.tools, pytest.mark.timeout(400)]

# 2 of Ray's CPUs, and 20 to 60 s of training: long enough to be watched, and to lose its leader.
# Its first stages rebuild their input; that has a panel, too.
JOB = """
name: watched
resources: {workers: 2}
data: {source: digits, scale: unit}
model: {kind: mlp, hidden: [64, 64], activation: relu}
pretraining: {method: denoising_autoencoder, reconstruction_loss: mse, epochs: 60}
training: {epochs: 500, batch_size: 100, diagnostics_every_steps: 10}
checkpoint: {every_steps: 100}
"""
SERVICE_URL = "http://strata.training.svc:8080"
SECONDS_OF_A_JOB = 200.0
LEASE_AND_A_BIT_SECONDS = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def has_joined(node: Running) -> bool:
    assert node.process.poll() is None, node.said
    return READY in node.log.read_bytes()


@dataclass
class Cluster:
    """Everything that the chart starts, here."""

    place: Place
    manifests: list[Manifest]
    running: dict[str, Running] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def container(self, kind: str, ending: str) -> Manifest:
        template = of_kind(self.manifests, kind, ending)["spec"]["template"]
        [container] = template["spec"]["containers"]
        return dict(container)

    def migrate(self) -> None:
        container = self.container("Job", "-migration")
        done = subprocess.run(
            self.place.command(container),
            env=self.place.environment(container),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def start_servers(self) -> None:
        deployment = of_kind(self.manifests, "Deployment", "-server")
        container = self.container("Deployment", "-server")
        assert deployment["spec"]["replicas"] == len(self.ports)
        for name, port in self.ports.items():
            environment = self.place.environment(container) | {"STRATA_PORT": str(port)}
            words = self.place.command(container)
            self.running[name] = start(self.place, name, words, environment)
        for name, port in self.ports.items():
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                wait_ready(self.running[name], container[probe], port)

    def start_ray(self, gcs_port: int, temporary: str) -> None:
        """As KubeRay does: the parameters become options, the secret's token a variable."""
        spec = of_kind(self.manifests, "RayCluster")["spec"]
        assert spec["authOptions"]["mode"] == "token"
        token = self.place.secrets[spec["authOptions"]["secretName"], "auth_token"]
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        # All nodes share one host here, so none has a port of its own choice.
        shared = [f"--{name}=0" for name in ZERO_PORTS]
        head = [f"--port={gcs_port}", f"--temp-dir={temporary}", *client_port(), *shared]
        joins = [f"--address=127.0.0.1:{gcs_port}", *shared]
        group = spec["workerGroupSpecs"][0]
        for name, kind, words in (
            ("ray-head", spec["headGroupSpec"], ["--head", *head]),
            ("ray-worker", group, joins),
        ):
            [container] = kind["template"]["spec"]["containers"]
            assert container["name"] == name
            given = {k: v for k, v in kind["rayStartParams"].items() if k not in ZERO_PORTS}
            options = [f"--{key}={value}" for key, value in given.items()]
            command = ["ray", "start", "--block", *words, *options]
            environment = self.place.environment(container) | auth
            node = start(self.place, name, command, environment)
            self.running[name] = node
            eventually(partial(has_joined, node), f"{name} is there")

    def start_agent(self) -> None:
        container = self.container("Deployment", "-agent")
        self.running["agent"] = start(
            self.place,
            "agent",
            self.place.command(container),
            self.place.environment(container),
        )

    def strata(self, *words: str, **environment: str) -> str:
        """A command, as people or an operator would type it."""
        done = subprocess.run(
            [str(BIN / "strata"), *words],
            env=self.place.environment({}) | environment,
            cwd=self.place.folder,
            capture_output=True,
            text=True,
            timeout=SECONDS_OF_A_JOB,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def token(self, *words: str) -> str:
        """Made inside a server's container, as the chart's notes say: it is all that is said."""
        environment = self.place.environment(self.container("Deployment", "-server"))
        return self.strata("tokens", "create", *words, **environment).removesuffix("\n")

    def metrics(self, server: str) -> str:
        return httpx.get(
            f"http://127.0.0.1:{self.ports[server]}/metrics", timeout=10, trust_env=False
        ).text

    def leader(self) -> str | None:
        """The server that says that it leads."""
        for name in self.ports:
            if self.running[name].process.poll() is None and self.value(name, LEADS) == 1.0:
                return name
        return None

    def value(self, server: str, metric: str) -> float | None:
        for family in text_string_to_metric_families(self.metrics(server)):
            for sample in family.samples:
                if sample.name == metric:
                    return float(sample.value)
        return None


LEADS = "strata_controller_leader"


@pytest.fixture
def cluster(tmp_path: Path, postgres_url: str, redis_server: RedisServer) -> Iterator[Cluster]:
    manifests = render(CI / "minimal.yaml", "redis.existingSecret=strata-redis", "metrics.layers=2")
    ports = {"server-1": free_port(), "server-2": free_port()}
    service, gcs_port = ServicePort(list(ports.values())), free_port()
    ray = of_kind(manifests, "RayCluster")["metadata"]["name"]
    (tmp_path / "storage").mkdir()
    place = Place(
        tmp_path,
        secrets={
            ("strata-database", "url"): postgres_url,
            ("strata-redis", "url"): redis_server.url,
            ("strata-ray", "auth_token"): secrets.token_hex(32),
        },
        substitutes={
            f"{ray}-head-svc:6379": f"127.0.0.1:{gcs_port}",
            SERVICE_URL: f"http://127.0.0.1:{service.port}",
            "/var/lib/strata": str(tmp_path / "storage"),
        },
    )
    cluster = Cluster(place, manifests, ports=ports)
    temporary = tempfile.mkdtemp(prefix="strata-", dir="/tmp")  # Ray's socket names must be short
    try:
        cluster.migrate()
        cluster.start_servers()
        cluster.start_ray(gcs_port, temporary)
        agent = cluster.token("strata", "--agent")
        place.secrets = {**place.secrets, ("strata-agent", "token"): agent}
        cluster.start_agent()
        yield cluster
    finally:
        for one in reversed(cluster.running.values()):
            one.kill()
        service.close()
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass
class Prometheus:
    """A real one, that scrapes both servers."""

    port: int
    started_at: float = field(default_factory=time.time)

    def knows(self, expression: str) -> bool:
        """True where the query has had a value since the start; a quantile of nothing is none."""
        answer = httpx.get(
            f"http://127.0.0.1:{self.port}/api/v1/query_range",
            params={"query": expression, "start": self.started_at, "end": time.time(), "step": 1},
            timeout=10,
            trust_env=False,
        ).json()
        assert answer["status"] == "success", answer
        series: list[Any] = answer["data"]["result"]
        return any(value != "NaN" for one in series for _, value in one["values"])


def start_prometheus(cluster: Cluster) -> Prometheus:
    port, folder = free_port(), cluster.place.folder
    targets = [f"127.0.0.1:{port}" for port in cluster.ports.values()]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "strata", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    words = [
        tool("prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/prometheus",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    environment = cluster.place.environment({})
    cluster.running["prometheus"] = start(cluster.place, "prometheus", words, environment)
    ready = {"httpGet": {"path": "/-/ready"}}
    wait_ready(cluster.running["prometheus"], ready, port)
    prometheus = Prometheus(port)
    # What is counted before the first look is in no rate.
    has_looked = f"count(up == 1) == {len(targets)}"
    eventually(lambda: prometheus.knows(has_looked), "both servers were scraped")
    return prometheus


def test_the_leader_is_killed_while_a_job_trains_and_the_job_does_not_notice(
    cluster: Cluster,
) -> None:
    prometheus = start_prometheus(cluster)
    people = {
        "STRATA_URL": cluster.place.here(SERVICE_URL),
        "STRATA_TOKEN": cluster.token("eva", "--role", "admin"),
    }
    (cluster.place.folder / "job.yaml").write_text(JOB)
    submitted = json.loads(cluster.strata("submit", "job.yaml", "-o", "json", **people))
    job_id = submitted["job"]["id"]

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(cluster.strata("status", job_id, "-o", "json", **people))
        return found

    eventually(lambda: status()["checkpoint"], "the job trains and has a checkpoint")
    eventually(cluster.leader, "a server leads", LEASE_AND_A_BIT_SECONDS)
    leader = cluster.leader()
    assert leader is not None
    assert_metrics_are_well(cluster.metrics(leader))

    assert status()["job"]["state"] == "running"
    cluster.running[leader].kill()
    eventually(cluster.leader, "the other server leads", LEASE_AND_A_BIT_SECONDS)
    assert cluster.leader() != leader
    before = status()
    assert before["job"]["state"] == "running", "it ended too soon to prove anything"
    eventually(
        lambda: status()["latest"]["progress"]["step"] > before["latest"]["progress"]["step"],
        "training is heard of by the new leader",
    )
    assert_dashboard_has_data(prometheus, job_id)
    eventually(lambda: status()["job"]["state"] != "running", "its end", SECONDS_OF_A_JOB)
    ended = status()
    assert ended["job"]["state"] == "succeeded", ended["job"]["reason_text"]
    assert [one["number"] for one in ended["attempts"]] == [1]
    assert ended["job"]["metrics"]["test_error"] < 10.0


def assert_dashboard_has_data(prometheus: Prometheus, job_id: str) -> None:
    """Every query of every panel, as Grafana would ask it of the job's time."""
    chosen = {"$service": "strata", "$job": job_id, "$name": ".*", "$__rate_interval": "30s"}
    missing = dict(enumerate(queries()))

    def all_are_there() -> bool:
        for number, (_, expression) in list(missing.items()):
            asked = expression
            for variable, value in chosen.items():
                asked = asked.replace(variable, value)
            assert "$" not in asked
            if prometheus.knows(asked):
                del missing[number]
        return not missing

    try:
        eventually(all_are_there, "", 30)
    except AssertionError:
        pytest.fail(f"no data for {list(missing.values())}")


def assert_metrics_are_well(text: str) -> None:
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
