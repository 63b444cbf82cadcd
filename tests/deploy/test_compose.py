"""The compose file: it holds together, has no secret of its own, and says what Strata reads."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.command_line import parse

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
MAKE_ENV = DEPLOY / "compose" / "make_env.py"
OURS = ("strata:dev", "strata-worker:dev")
# Whoever reads the environment of our containers.
READERS = ("service/settings.py", "service/cli/agent.py")


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        words, env=clean | environment, capture_output=True, text=True, timeout=60, check=False
    )


def compose(env_file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("docker-compose")
    assert program.exists(), "docker-compose is missing; install the extra `test`"
    return run(program, "--env-file", env_file, "-f", COMPOSE, *words)


def read_env(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / "env"
    done = run(sys.executable, MAKE_ENV, path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def resolved(env_file: Path) -> dict[str, Any]:
    """The file as compose understands it: anchors, secrets and short forms written out."""
    done = compose(env_file, "config")
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)
    assert isinstance(found, dict)
    return found


def test_compose_has_nothing_to_say(env_file: Path) -> None:
    done = compose(env_file, "config", "--quiet")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_without_secrets_compose_refuses_and_names_the_command(env_file: Path) -> None:
    for name, value in read_env(env_file).items():
        rest = env_file.with_name("rest")
        rest.write_text(env_file.read_text().replace(f"{name}={value}", ""))
        done = compose(rest, "config", "--quiet")
        assert done.returncode != 0, f"it starts without {name}"
        assert f"{name} is missing a value: run python3 {MAKE_ENV.relative_to(ROOT)}" in done.stderr


def test_the_secrets_are_the_owners_only_and_never_overwritten(env_file: Path) -> None:
    assert env_file.stat().st_mode & 0o777 == 0o600
    before = env_file.read_text()
    again = run(sys.executable, MAKE_ENV, env_file)
    assert again.returncode == 1
    assert again.stderr.startswith(f"{env_file} is there already")
    assert env_file.read_text() == before


def test_all_secrets_are_long_different_and_each_is_used(env_file: Path, tmp_path: Path) -> None:
    secrets = read_env(env_file)
    assert all(re.fullmatch(r"[0-9a-f]{64}", secret) for secret in secrets.values())
    other = tmp_path / "other"
    assert run(sys.executable, MAKE_ENV, other).returncode == 0
    assert len({*secrets.values(), *read_env(other).values()}) == 2 * len(secrets)
    asked = set(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE.read_text()))
    assert asked == set(secrets)


def test_no_secret_is_written_into_the_file() -> None:
    """Whatever is called a password, a token or a key comes from the environment."""
    text = COMPOSE.read_text()
    for name, value in re.findall(r"^ +([A-Z_]*(?:PASSWORD|TOKEN|AUTH|KEY)): *(.+)$", text, re.M):
        assert value.startswith("${"), f"{name} is written out"
    assert re.findall(r"://[^:@\s]*:(\S+?)@", text) == [
        "${POSTGRES_PASSWORD:-}",
        "${REDIS_PASSWORD:-}",
    ]


def test_every_variable_is_one_that_strata_reads(resolved: dict[str, Any]) -> None:
    known = set()
    for reader in READERS:
        known |= set(re.findall(r'"(STRATA_[A-Z_]+)"', (ROOT / reader).read_text()))
    for name, service in resolved["services"].items():
        script = " ".join(service.get("command") or [])
        for variable in service.get("environment") or {}:
            if variable.startswith("STRATA_"):
                assert variable in known or f"${variable}" in script, f"{name}: {variable}"


def test_every_command_is_one_that_strata_understands(resolved: dict[str, Any]) -> None:
    lines = []
    for service in resolved["services"].values():
        words = service.get("command") or []
        if service["image"] == OURS[0]:
            script = words[0] if service.get("entrypoint") else "strata " + " ".join(words)
            lines += re.findall(r"strata (.+)", script)
        elif words[:1] == ["strata"]:
            lines.append(" ".join(words[1:]))
    assert len(lines) == 6  # two servers, the migration, two tokens, the agent
    for line in lines:
        parse(line.split())


def test_the_images_of_others_are_pinned(resolved: dict[str, Any]) -> None:
    for name, service in resolved["services"].items():
        if service["image"] not in OURS:
            assert re.search(r":v?\d", service["image"]), f"{name} is not pinned"


def test_each_of_our_images_is_built_once_by_one_whom_the_others_wait_for(
    resolved: dict[str, Any],
) -> None:
    """Two builds of one name go on at once, and the second to end fails."""
    services = resolved["services"]
    for image in OURS:
        users = {name for name in services if services[name]["image"] == image}
        [builder] = {name for name in users if "build" in services[name]}
        build = services[builder]["build"]
        assert Path(build["context"], build["dockerfile"]).is_file()
        for name in users:
            assert services[name]["pull_policy"] == "never", "nobody else's image of that name"
            assert name == builder or builder in waited_for(services, name)


def waited_for(services: dict[str, Any], name: str) -> set[str]:
    """All that a service depends on, near and far."""
    near = set(services[name].get("depends_on") or {})
    return near.union(*(waited_for(services, other) for other in near))


def test_our_containers_have_no_rights_and_two_cannot_write(resolved: dict[str, Any]) -> None:
    services = resolved["services"]
    ours = [name for name in services if services[name]["image"] in OURS]
    assert len(ours) == 7
    for name in ours:
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]
        assert "user" not in services[name], "the image says who it runs as"
    assert all(services[name]["read_only"] for name in ("server-1", "server-2", "tokens"))


def test_all_that_train_and_serve_see_the_storage_at_one_path(resolved: dict[str, Any]) -> None:
    services = resolved["services"]
    seen = {"server-1", "server-2", "ray-head", "ray-worker", "agent"}
    for name in seen:
        mounts = [(one["source"], one["target"]) for one in services[name]["volumes"]]
        assert ("storage", "/var/lib/strata") in mounts, name
    for name in seen - {"ray-head", "ray-worker"}:
        assert services[name]["environment"]["STRATA_STORAGE_URL"] == "/var/lib/strata"


def test_every_file_that_is_mounted_is_there(resolved: dict[str, Any]) -> None:
    for service in resolved["services"].values():
        for mount in service.get("volumes") or []:
            if mount["type"] == "bind":
                assert Path(mount["source"]).exists(), mount["source"]
                assert mount["read_only"]


def test_what_runs_on_ray_cannot_reach_the_database(resolved: dict[str, Any]) -> None:
    services = resolved["services"]
    for name in ("ray-head", "ray-worker", "agent"):
        assert set(services[name]["networks"]) == {"ray"}
    for name in ("postgres", "redis"):
        assert set(services[name]["networks"]) == {"data"}
    both = [name for name in services if {"data", "ray"} <= set(services[name]["networks"])]
    assert both == []
    assert resolved["networks"]["data"]["internal"]


def test_people_come_in_on_this_machine_only(resolved: dict[str, Any]) -> None:
    opened = {
        name: [(port["host_ip"], port["target"]) for port in service["ports"]]
        for name, service in resolved["services"].items()
        if service.get("ports")
    }
    assert opened == {
        "balancer": [("127.0.0.1", 8080)],
        "prometheus": [("127.0.0.1", 9090)],
        "grafana": [("127.0.0.1", 3000)],
    }


def test_nobody_waits_for_a_health_that_is_never_told(resolved: dict[str, Any]) -> None:
    services = resolved["services"]
    for name, service in services.items():
        for other, how in (service.get("depends_on") or {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}"


def test_balancer_and_prometheus_ask_the_servers_at_their_port(resolved: dict[str, Any]) -> None:
    servers = [name for name in resolved["services"] if name.startswith("server-")]
    ports = {resolved["services"][name]["environment"]["STRATA_PORT"] for name in servers}
    assert ports == {"8080"}
    expected = [f"{name}:8080" for name in servers]
    nginx = (DEPLOY / "compose" / "nginx.conf").read_text()
    assert re.findall(r"server (\S+) resolve", nginx) == expected
    prometheus = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert prometheus["scrape_configs"][0]["static_configs"][0]["targets"] == expected


def test_the_agents_token_is_stored_under_its_name(resolved: dict[str, Any]) -> None:
    services = resolved["services"]
    name = next(
        word.removeprefix("--name=")
        for word in services["agent"]["command"]
        if word.startswith("--name=")
    )
    assert f"strata tokens create {name} --agent" in services["tokens"]["command"][0]
    token = services["agent"]["environment"]["STRATA_TOKEN"]
    assert token == services["tokens"]["environment"]["STRATA_AGENT_TOKEN"]


def test_a_long_poll_fits_into_the_balancers_patience() -> None:
    from service.http.app import BODY_BYTES_MAX
    from service.http.waiting import LONG_POLL_SECONDS_MAX

    nginx = (DEPLOY / "compose" / "nginx.conf").read_text()
    patience = re.search(r"proxy_read_timeout (\d+)s;", nginx)
    largest = re.search(r"client_max_body_size (\d+)m;", nginx)
    assert patience is not None
    assert largest is not None
    assert int(patience[1]) > LONG_POLL_SECONDS_MAX
    assert int(largest[1]) << 20 > BODY_BYTES_MAX


@pytest.mark.tools
def test_prometheus_accepts_its_configuration() -> None:
    promtool = ROOT / ".tools" / "bin" / "promtool"
    assert promtool.exists(), "promtool is missing; run `make tools`"
    done = run(promtool, "check", "config", DEPLOY / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
