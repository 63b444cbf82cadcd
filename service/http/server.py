"""Runs the application until it is told to stop; waiting answers are given at once then."""

import logging
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

STOP_SECONDS = 5  # for requests on their way; long-polls end at once
BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn, which lets go of the long-polls before it waits for open requests."""

    def __init__(self, app: FastAPI, on_stop: Callable[[], None] | None = None) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=STOP_SECONDS,
            lifespan="off",
        )
        super().__init__(config)
        self._app = app
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; called on the event loop."""
        logging.getLogger(__name__).info("stopping")
        self._app.state.closing.close()
        if self._on_stop is not None:
            self._on_stop()
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises OSError where the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.listen(BACKLOG)
    return listener
