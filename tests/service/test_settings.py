"""Settings come from the environment only, with defaults that work."""

import re
from pathlib import Path

import pytest

from service.domain.errors import BadInput
from service.settings import make_home, read_settings, write_secret


def test_everything_has_a_default_below_the_home(tmp_path: Path) -> None:
    settings = read_settings({"STRATA_HOME": str(tmp_path)})
    assert settings.database_url == f"sqlite:///{tmp_path}/strata.db"
    assert settings.storage_url == f"{tmp_path}/storage"
    assert settings.metrics_layers == 0, "series of layers are for those who ask for them"
    assert settings.local_cpus >= 2


def test_every_variable_is_in_the_docs() -> None:
    root = Path(__file__).resolve().parents[2]
    readers = (root / "service" / "settings.py", root / "workers" / "data" / "node_folder.py")
    names = {name for file in readers for name in re.findall(r"STRATA_\w+", file.read_text())}
    table = (root / "docs" / "operations.md").read_text().partition("## The local service")[0]
    assert len(names) > 10
    assert names == set(re.findall(r"STRATA_\w+", table))


def test_local_places_become_absolute_and_urls_stay() -> None:
    env = {"STRATA_STORAGE_URL": "s3://bucket/x", "STRATA_DATA_ROOTS": "data, s3://b/d,"}
    settings = read_settings(env)
    assert settings.storage_url == "s3://bucket/x"
    assert settings.data_roots == (str(Path("data").absolute()), "s3://b/d")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("STRATA_IDLE_SECONDS", value) for value in ("x", "-1", "nan", "inf")],
        *[("STRATA_PORT", value) for value in ("x", "-1", "80.5", "65536", "9" * 5000)],
        *[("STRATA_LOCAL_CPUS", value) for value in ("0", "two", "1e3")],
        *[("STRATA_METRICS_LAYERS", value) for value in ("-1", "65", "all")],
        *[("STRATA_URL", value) for value in ("strata.example", "localhost:8080", "ftp://a")],
        *[("STRATA_REDIS_URL", value) for value in ("localhost:6379", "http://a")],
        *[("STRATA_TOKEN", value) for value in ("one\ntwo", "t\u00f6ken")],
    ],
)
def test_what_can_not_be_meant_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(BadInput, match=name) as caught:
        read_settings({name: value})
    assert caught.value.remedy


def test_what_can_be_meant_is_taken() -> None:
    env = {
        "STRATA_URL": "https://strata.example/here",
        "STRATA_TOKEN": "strata_x\n",
        "STRATA_PORT": "0",
        "STRATA_LOCAL_CPUS": "4096",
        "STRATA_IDLE_SECONDS": "0.5",
    }
    settings = read_settings(env)
    assert (settings.url, settings.token) == ("https://strata.example/here", "strata_x")
    assert (settings.port, settings.local_cpus, settings.idle_seconds) == (0, 4096, 0.5)


def test_the_home_and_its_secrets_are_the_owners_only(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    make_home(home)
    write_secret(home / "token", "t")
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "token").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    path.chmod(0o644)
    write_secret(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_home_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="STRATA_HOME"):
        make_home(tmp_path / "file" / "home")
