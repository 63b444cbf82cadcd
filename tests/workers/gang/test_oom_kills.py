"""What the kernel says of its kills, read as it writes it."""

from pathlib import Path

import pytest

from workers.gang.oom_kills import num_oom_kills


@pytest.mark.parametrize("path", ["", "pod/container"])
def test_the_kills_of_the_own_group_are_counted(tmp_path: Path, path: str) -> None:
    (tmp_path / path).mkdir(parents=True, exist_ok=True)
    (tmp_path / path / "memory.events").write_text("low 0\nmax 7\noom 4\noom_kill 3\n")
    (tmp_path / "own").write_text(f"1:name=systemd:/else\n0::/{path}\n")
    assert num_oom_kills(tmp_path / "own", tmp_path) == 3


def test_where_nothing_can_be_told_there_were_none(tmp_path: Path) -> None:
    assert num_oom_kills(tmp_path / "own", tmp_path) == 0
    (tmp_path / "own").write_text("4:memory:/of-version-1\n")
    assert num_oom_kills(tmp_path / "own", tmp_path) == 0
