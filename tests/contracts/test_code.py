"""A user's code from the folder beside a job file to the workers: the same bytes, and no more."""

import gzip
import hashlib
import io
import os
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from service.cli import packing
from service.cli.packing import pack
from service.control.code import Code
from service.domain.errors import BadInput, Unreachable
from workers.contract.code import pack_file, pack_name, sha256_of_pack
from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.models.code import use_code


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "before")


def folder_of(place: Path, **files: str) -> Path:
    folder = place / "mine"
    (folder / "nets").mkdir(parents=True)
    (folder / "nets" / "__init__.py").write_text("ANSWER = 42\n")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "old.pyc").write_bytes(b"old")
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def stored(storage: Path, content: bytes) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    Code(str(storage)).put(sha256, content)
    return pack_name(sha256)


def tar_of(*entries: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    return packed.getvalue()


def test_what_was_packed_is_there_on_the_workers_and_can_be_imported(tmp_path: Path) -> None:
    name = stored(tmp_path / "storage", pack(folder_of(tmp_path, **{"loss.py": "print()"})))
    Code(str(tmp_path / "storage")).check(name)
    folder = use_code(name, str(tmp_path / "storage"), tmp_path / "cache")
    assert sorted(path.name for path in folder.rglob("*.py")) == ["__init__.py", "loss.py"]
    assert not (folder / "__pycache__").exists()
    assert sys.path[-1] == str(folder), "it hides nothing of ours"
    assert os.environ["PYTHONPATH"].split(os.pathsep) == ["before", str(folder)]
    assert use_code(name, "/nowhere", tmp_path / "cache") == folder, "it is unpacked once"


def test_a_pack_is_found_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name says what its bytes are: half of it under that name would stay there for ever."""
    content = b"a pack"
    sha256 = hashlib.sha256(content).hexdigest()
    code, place = Code(str(tmp_path)), tmp_path / pack_file(sha256)
    write = LocalFileSystem.pipe_file

    def cut_off(files: LocalFileSystem, path: str, value: bytes) -> None:
        write(files, path, value[:3])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "pipe_file", cut_off)
        with pytest.raises(Unreachable, match="No space left"):
            code.put(sha256, content)
    assert [path.read_bytes() for path in place.parent.iterdir()] == [b"a p"], "the fault fired"
    with pytest.raises(BadInput, match="is not on the storage"):
        code.check(pack_name(sha256))
    code.put(sha256, content)
    assert place.read_bytes() == content


def test_a_storage_whose_library_has_errors_of_its_own_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EndpointConnectionError(Exception):
        """As an object store's: it is no OSError."""

    def away(*_: object, **__: object) -> None:
        raise EndpointConnectionError("could not connect")

    monkeypatch.setattr(LocalFileSystem, "exists", away)
    with pytest.raises(Unreachable, match="could not connect"):
        Code(str(tmp_path)).check(pack_name("0" * 64))


def test_the_same_files_make_the_same_pack(tmp_path: Path) -> None:
    one, other = folder_of(tmp_path / "a"), folder_of(tmp_path / "b")
    os.utime(other / "nets" / "__init__.py", (0, 0))
    (other / "nets" / "__init__.py").chmod(0o755)
    assert pack(one) == pack(other)
    (other / "more.py").write_text("")
    assert pack(one) != pack(other)


def test_ranks_that_unpack_at_once_find_it_whole(tmp_path: Path) -> None:
    name = stored(tmp_path / "storage", pack(folder_of(tmp_path)))
    with ThreadPoolExecutor(8) as pool:
        used = pool.map(
            lambda _: use_code(name, str(tmp_path / "storage"), tmp_path / "cache"), range(8)
        )
        for folder in used:
            assert (folder / "nets" / "__init__.py").read_text() == "ANSWER = 42\n"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [sha256_of_pack(name)]


def test_a_folder_that_hides_ours_is_missing_or_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="is no folder"):
        pack(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="top-level 'workers'"):
        pack(folder_of(tmp_path / "a", **{"workers.py": ""}))
    monkeypatch.setattr(packing, "PACK_BYTES_MAX", 1000)
    noise = "".join(hashlib.sha256(bytes([n])).hexdigest() for n in range(200))
    with pytest.raises(BadInput, match="more than 1000; leave data out"):
        pack(folder_of(tmp_path / "b", **{"noise.py": noise}))


def test_a_pack_that_changed_on_its_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="changed on its way"):
        Code(str(tmp_path)).put("0" * 64, b"other")
    with pytest.raises(BadInput, match="is not on the storage"):
        Code(str(tmp_path)).check(pack_name("0" * 64))
    with pytest.raises(BadInput, match="is no packed code"):
        Code(str(tmp_path)).check("./mine")
    name = stored(tmp_path, pack(folder_of(tmp_path)))
    (tmp_path / pack_file(str(sha256_of_pack(name)))).write_bytes(b"forged")
    with pytest.raises(StorageFailure, match="is not what was submitted"):
        use_code(name, str(tmp_path), tmp_path / "cache")


@pytest.mark.parametrize("name", ["../out.py", "/etc/out.py", "a/../../out.py", "service/x.py"])
def test_a_pack_writes_nothing_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = 1
    packed = stored(tmp_path / "storage", tar_of(entry))
    with pytest.raises(ConfigFailure, match="code: "):
        use_code(packed, str(tmp_path / "storage"), tmp_path / "cache")
    assert not list(tmp_path.rglob("out.py"))
    assert not list((tmp_path / "cache").iterdir())


def test_links_and_bombs_are_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("link.py")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    bomb = tarfile.TarInfo("bomb.py")
    bomb.size = 65 << 20
    for entry, said in ((link, "no plain file"), (bomb, "leave data out")):
        packed = stored(tmp_path / "storage", tar_of(entry))
        with pytest.raises(ConfigFailure, match=said):
            use_code(packed, str(tmp_path / "storage"), tmp_path / "cache")
    packed = stored(tmp_path / "storage", gzip.compress(b"no tar"))
    with pytest.raises(ConfigFailure, match="can't be read"):
        use_code(packed, str(tmp_path / "storage"), tmp_path / "cache")


def test_code_that_is_gone_is_a_mistake_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigFailure, match="submit the folder anew"):
        use_code(pack_name("0" * 64), str(tmp_path), tmp_path / "cache")
    with pytest.raises(ConfigFailure, match="is no packed code"):
        use_code("./mine", str(tmp_path), tmp_path / "cache")


def test_a_folder_that_others_may_write_is_not_run_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default packs lie in the node's temporary folder, where its name can be guessed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    name = stored(tmp_path / "storage", pack(folder_of(tmp_path)))
    own = use_code(name, str(tmp_path / "storage")).parent
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)
    with pytest.raises(StorageFailure, match="may be written by other users"):
        use_code(name, str(tmp_path / "storage"))
    own.chmod(0o700)
    own.rename(tmp_path / "strata-code-4242")
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(StorageFailure, match="may be written by other users"):
        use_code(name, str(tmp_path / "storage"))
