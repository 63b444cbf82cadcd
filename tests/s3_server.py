"""A server that speaks S3, and a new bucket on it for each test that asks."""

from collections.abc import Iterator
from uuid import uuid4

import fsspec
import pytest

REGION = "us-east-1"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Its URL; it runs in a thread of this process, and forgets all at the end."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new bucket's URL; the server is found as in production, by the environment."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(name, value)
    name = f"strata-{uuid4().hex}"
    forget_connections()
    fsspec.filesystem("s3").mkdir(name)
    yield f"s3://{name}"
    forget_connections()


def forget_connections() -> None:
    """Have the next file system made anew, by the environment as it is then."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
