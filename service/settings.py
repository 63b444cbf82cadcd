"""Settings: from the environment, each with its default and its meaning; nothing else reads it."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.domain.errors import BadInput

HOME_MODE = 0o700
SECRET_MODE = 0o600
DEFAULT_PORT = 8080
PORT_MAX = 65_535
CPUS_MAX = 4096  # beyond any one machine
IDLE_SECONDS = 300.0
METRICS_LAYERS_MAX = 64  # of a job: two series for each, and far more jobs than one
REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set."""

    home: Path  # STRATA_HOME: the state folder
    database_url: str  # STRATA_DATABASE_URL
    redis_url: str | None  # STRATA_REDIS_URL: wakes the other servers; None: they poll
    storage_url: str  # STRATA_STORAGE_URL: a folder or any fsspec URL, shared by all workers
    data_roots: tuple[str, ...]  # STRATA_DATA_ROOTS: more places to read data from, by commas
    url: str | None  # STRATA_URL: the server to speak to; None: the state folder's own
    token: str | None  # STRATA_TOKEN
    host: str  # STRATA_HOST: where the server listens
    port: int  # STRATA_PORT: 0 takes a free one
    idle_seconds: float  # STRATA_IDLE_SECONDS: after which the local service ends itself
    local_cpus: int  # STRATA_LOCAL_CPUS: what the local Ray offers
    metrics_layers: int  # STRATA_METRICS_LAYERS: of how many layers of a job /metrics tells


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of this process.

    Raises:
        BadInput: a variable that can't be meant like this; it is named.
    """
    env = os.environ if environment is None else environment
    home = Path(env.get("STRATA_HOME") or "~/.strata").expanduser().absolute()
    roots = env.get("STRATA_DATA_ROOTS", "")
    return Settings(
        home=home,
        database_url=env.get("STRATA_DATABASE_URL") or f"sqlite:///{home}/strata.db",
        redis_url=_redis_url(env),
        storage_url=_place(env.get("STRATA_STORAGE_URL") or f"{home}/storage"),
        data_roots=tuple(_place(root) for root in roots.split(",") if root.strip()),
        url=_url(env),
        token=_token(env),
        host=env.get("STRATA_HOST") or "127.0.0.1",
        port=_whole(env, "STRATA_PORT", DEFAULT_PORT, range(PORT_MAX + 1)),
        idle_seconds=_seconds(env, "STRATA_IDLE_SECONDS", IDLE_SECONDS),
        local_cpus=_whole(
            env, "STRATA_LOCAL_CPUS", max(2, os.cpu_count() or 1), range(1, CPUS_MAX + 1)
        ),
        metrics_layers=_whole(env, "STRATA_METRICS_LAYERS", 0, range(METRICS_LAYERS_MAX + 1)),
    )


def make_home(home: Path) -> None:
    """Make the state folder, for its owner only; BadInput where that can't be."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=HOME_MODE)
        (home / "logs").mkdir(exist_ok=True, mode=HOME_MODE)
    except OSError as error:
        raise BadInput(
            f"{home} can't be made: {error.strerror}",
            place="STRATA_HOME",
            remedy="name a folder of your own",
        ) from error


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read; whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, SECRET_MODE)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    beside.replace(path)  # also where the file was there before, with another mode


def _place(text: str) -> str:
    """A URL as it is; a local path made absolute, for the workers have another current folder."""
    text = text.strip()
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _url(env: Mapping[str, str]) -> str | None:
    url = env.get("STRATA_URL", "").strip()
    if url and not url.startswith(("http://", "https://")):
        raise BadInput(
            f"{url!r} is no URL", place="STRATA_URL", remedy="write https://HOST or http://HOST"
        )
    return url or None


def _redis_url(env: Mapping[str, str]) -> str | None:
    url = env.get("STRATA_REDIS_URL", "").strip()
    if url and not url.startswith(REDIS_SCHEMES):  # it is not shown: it may hold a password
        raise BadInput(
            "is no URL of a Redis",
            place="STRATA_REDIS_URL",
            remedy="write redis://user:password@host:6379/0",
        )
    return url or None


def _token(env: Mapping[str, str]) -> str | None:
    token = env.get("STRATA_TOKEN", "").strip()  # a file's last line end, as it often comes
    if not (token.isascii() and token.isprintable()):
        raise BadInput("is no token", place="STRATA_TOKEN", remedy="copy it again")
    return token or None


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise BadInput(f"{text!r} is no number of 0 or more", place=name, remedy="write seconds")
    return value


def _whole(env: Mapping[str, str], name: str, default: int, allowed: range) -> int:
    text = env.get(name)
    if not text:
        return default
    value = int(text) if text.isdecimal() and len(text) <= len(str(allowed.stop)) else -1
    if value not in allowed:
        raise BadInput(
            f"{text!r} is no whole number from {allowed.start} to {allowed.stop - 1}",
            place=name,
            remedy="write one",
        )
    return value
