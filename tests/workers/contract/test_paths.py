"""Names of everything on storage, and the fence around the data that a spec may read."""

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contract import paths
from workers.contract.wire import JobId

JOB = JobId("0192f0c1-2345-7000-8000-000000000001")


def test_everything_of_a_job_stands_below_its_folder() -> None:
    assert paths.attempt_folder(JOB, 2) == f"jobs/{JOB}/attempts/2"
    assert paths.fact_file(JOB, 2, 17) == f"jobs/{JOB}/attempts/2/facts/000000017.json"
    assert paths.log_folder(JOB, 2, "rank-0") == f"jobs/{JOB}/attempts/2/logs/rank-0"
    folder = paths.checkpoint_folder(JOB, "pretrain-01", 120, 2)
    assert folder == f"jobs/{JOB}/checkpoints/pretrain-01-000000120-a2"


@given(st.lists(st.integers(1, 999_999_999), min_size=2))
def test_names_of_facts_sort_like_their_numbers(numbers: list[int]) -> None:
    names = [paths.fact_file(JOB, 1, seq) for seq in sorted(numbers)]

    assert names == sorted(names)


@given(
    *[
        st.tuples(
            st.sampled_from(["pretrain-01", "pretrain-10", "finetune"]),
            st.integers(0, 2_000_000_000),
            st.integers(1, 50),
        )
    ]
    * 2
)
def test_two_checkpoints_never_share_a_folder(
    one: tuple[str, int, int], other: tuple[str, int, int]
) -> None:
    folders = {paths.checkpoint_folder(JOB, *one), paths.checkpoint_folder(JOB, *other)}

    assert len(folders) == len({one, other})


@pytest.mark.parametrize("root", ["file:///store", "file:///store/", "s3://bucket/team"])
def test_a_path_is_joined_to_the_root_by_one_slash(root: str) -> None:
    assert paths.join(root, "a/b") == f"{root.rstrip('/')}/a/b"


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("/a/b", "file:///a/b"),
        ("/a/./b/../c/", "file:///a/c"),
        ("//a//b", "file:///a/b"),
        ("/../a", "file:///a"),
        ("file:///a/b", "file:///a/b"),
        ("s3://bucket/a/../b", "s3://bucket/b"),
        ("s3://bucket/../b", "s3://bucket/b"),
        ("memory://a", "memory://a/"),
        ("/store/a#b?c.npz", "file:///store/a#b?c.npz"),
    ],
)
def test_a_url_has_one_normal_form(url: str, normal: str) -> None:
    assert paths.normalize(url) == normal
    assert paths.normalize(normal) == normal


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("mnist", "file:///store/mnist"),
        ("a/../mnist", "file:///store/mnist"),
        (".", "file:///store"),
        ("/store/mnist", "file:///store/mnist"),
        ("file:///store/mnist", "file:///store/mnist"),
        ("/data/mnist", "file:///data/mnist"),
        ("/data", "file:///data"),
        ("s3://bucket/team/x.npz", "s3://bucket/team/x.npz"),
    ],
)
def test_data_below_a_root_may_be_read(path: str, url: str) -> None:
    assert paths.resolve_data(path, "/store", ("/data/", "s3://bucket/team")) == url


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../data/mnist",  # a relative path belongs to the storage root only
        "a/../../etc/passwd",
        "/etc/passwd",
        "/store-of-others/x",
        "/store/../etc/passwd",
        "/data/../etc/passwd",
        "file:///etc/passwd",
        "file://host/store/x",
        "s3://bucket/other/x",
        "s3://bucket/team/../other/x",
        "s3://bucket-of-others/team/x",
        "gs://bucket/team/x",
        "simplecache::file:///etc/passwd",
        "zip://x::file:///etc/passwd",
    ],
)
def test_data_outside_of_the_roots_may_not_be_read(path: str) -> None:
    assert paths.resolve_data(path, "/store", ("/data/", "s3://bucket/team")) is None


SEGMENTS = st.lists(st.sampled_from(["a", "store", "data", ".", "..", "...", ""]), max_size=8)


@given(segments=SEGMENTS, lead=st.sampled_from(["", "/", "file:///", "/store/", "file:///data/"]))
def test_no_path_climbs_out_of_the_roots(segments: list[str], lead: str) -> None:
    path = lead + "/".join(segments)

    url = paths.resolve_data(path, "/store", ("/data",))

    local = path.removeprefix("file://")
    place = posixpath.normpath(posixpath.join("/store", local)).replace("//", "/")
    roots = ("/store", "/data") if local.startswith("/") else ("/store",)
    may_be_read = any(posixpath.commonpath([place, root]) == root for root in roots)
    assert url == (f"file://{place}" if may_be_read else None)


@pytest.mark.parametrize("path", ["x::local", "zip://a::/store/b.zip", "http://[a"])
def test_what_is_no_plain_url_of_a_root_is_refused(path: str) -> None:
    assert paths.resolve_data(path, "/store", ("/data",)) is None
