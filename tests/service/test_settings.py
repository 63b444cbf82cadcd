"""Settings come from the environment only, with defaults that work."""

from pathlib import Path

import pytest

from service.domain.errors import BadInput
from service.settings import make_home, read_settings, write_secret


def test_everything_has_a_default_below_the_home(tmp_path: Path) -> None:
    settings = read_settings({"STRATA_HOME": str(tmp_path)})
    assert settings.database_url == f"sqlite:///{tmp_path}/strata.db"
    assert settings.storage_url == f"{tmp_path}/storage"
    assert settings.is_embedded
    assert settings.local_cpus >= 2


def test_local_places_become_absolute_and_urls_stay() -> None:
    env = {"STRATA_STORAGE_URL": "s3://bucket/x", "STRATA_DATA_ROOTS": "data, s3://b/d,"}
    settings = read_settings(env)
    assert settings.storage_url == "s3://bucket/x"
    assert settings.data_roots == (str(Path("data").absolute()), "s3://b/d")


@pytest.mark.parametrize("value", ["x", "-1"])
def test_a_wrong_number_is_named(value: str) -> None:
    with pytest.raises(BadInput, match="STRATA_IDLE_SECONDS"):
        read_settings({"STRATA_IDLE_SECONDS": value})


def test_the_home_and_its_secrets_are_the_owners_only(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    make_home(home)
    write_secret(home / "token", "t")
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "token").stat().st_mode & 0o777 == 0o600


def test_a_home_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="STRATA_HOME"):
        make_home(tmp_path / "file" / "home")
