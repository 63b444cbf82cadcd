"""Verifying a checkpoint: whatever changes in it, in any file, at any byte, is found."""

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from workers.contract.manifest import CheckpointDamaged, Manifest, ManifestFile, verify
from workers.contract.wire import JobId

Files = dict[str, bytes]

DATA = st.dictionaries(
    st.sampled_from(["__0_0.distcp", "__1_0.distcp", ".metadata", "state.json", "rank-0.pt"]),
    st.binary(min_size=1, max_size=64),
    min_size=1,
)


def checkpoint(data: Files) -> tuple[Files, str]:
    """All files, and the hash of the manifest."""
    manifest = Manifest(
        job_id=JobId("job"),
        attempt=1,
        stage_index=0,
        stage="finetune",
        step=5,
        world_size=2,
        files=tuple(
            ManifestFile(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in data.items()
        ),
    )
    text = manifest.model_dump_json().encode()
    return data | {"manifest.json": text}, hashlib.sha256(text).hexdigest()


class Storage:
    """Files in chunks of a few bytes; a missing one is an OSError, as on real storage."""

    def __init__(self, files: Files, chunk_bytes: int = 7) -> None:
        self._files = files
        self._chunk_bytes = chunk_bytes

    def read(self, name: str) -> Iterator[bytes]:
        if name not in self._files:
            raise FileNotFoundError(name)
        content = self._files[name]
        for start in range(0, len(content), self._chunk_bytes):
            yield content[start : start + self._chunk_bytes]


@given(data=DATA, chunk_bytes=st.integers(1, 100))
def test_what_was_written_verifies(data: Files, chunk_bytes: int) -> None:
    files, sha256 = checkpoint(data)

    manifest = verify(Storage(files, chunk_bytes).read, sha256)

    assert [file.name for file in manifest.files] == list(data)
    assert (manifest.step, manifest.stage, manifest.world_size) == (5, "finetune", 2)


@given(data=DATA, choice=st.data())
def test_any_flipped_bit_is_found(data: Files, choice: st.DataObject) -> None:
    files, sha256 = checkpoint(data)
    name = choice.draw(st.sampled_from(sorted(files)))
    place = choice.draw(st.integers(0, len(files[name]) - 1))
    changed = bytearray(files[name])
    changed[place] ^= 1 << choice.draw(st.integers(0, 7))

    with pytest.raises(CheckpointDamaged, match=name):
        verify(Storage(files | {name: bytes(changed)}).read, sha256)


@given(data=DATA, choice=st.data())
def test_any_other_length_is_found(data: Files, choice: st.DataObject) -> None:
    files, sha256 = checkpoint(data)
    name = choice.draw(st.sampled_from(sorted(files)))
    content = files[name]
    changed = choice.draw(
        st.sampled_from([content[:-1], content[: len(content) // 2], content + b"\0", b""])
    )

    with pytest.raises(CheckpointDamaged, match=name):
        verify(Storage(files | {name: changed}).read, sha256)


@given(data=DATA, choice=st.data())
def test_any_missing_file_is_found(data: Files, choice: st.DataObject) -> None:
    files, sha256 = checkpoint(data)
    name = choice.draw(st.sampled_from(sorted(files)))

    with pytest.raises(CheckpointDamaged, match=f"{name} can't be read"):
        verify(Storage({key: files[key] for key in files if key != name}).read, sha256)


def test_a_read_that_breaks_off_is_damage() -> None:
    files, sha256 = checkpoint({"state.json": b"0123456789"})

    def read(name: str) -> Iterator[bytes]:
        if name == "manifest.json":
            yield files[name]
            return
        yield b"0123"
        raise OSError("Input/output error")

    with pytest.raises(CheckpointDamaged, match=r"state\.json can't be read: Input/output error"):
        verify(read, sha256)


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b'{"version": 1', b"\xff"])
def test_a_manifest_that_is_none_is_damage_even_if_it_was_recorded(text: bytes) -> None:
    storage = Storage({"manifest.json": text})

    with pytest.raises(CheckpointDamaged, match="can't be understood"):
        verify(storage.read, hashlib.sha256(text).hexdigest())


def test_files_that_the_manifest_does_not_list_are_nothing_to_it() -> None:
    files, sha256 = checkpoint({"state.json": b"{}"})

    assert len(verify(Storage(files | {"note.txt": b"hello"}).read, sha256).files) == 1


@pytest.mark.parametrize("name", ["", "../x", "a/b", "/etc/passwd", "-rf", "a b", "a\n", "a\\b"])
def test_a_file_of_a_checkpoint_has_a_plain_name(name: str) -> None:
    with pytest.raises(ValidationError):
        ManifestFile(name=name, bytes=0, sha256="")
