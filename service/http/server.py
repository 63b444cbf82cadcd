"""Runs the application until it is told to stop; waiting answers are given at once then."""

import logging
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

STOP_SECONDS = 5  # for requests on their way; long-polls end at once
BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn, which lets go of the long-polls before it waits for open requests.

    SIGTERM or SIGINT ends `run` in order, and it returns; a second SIGINT waits for nobody.
    """

    def __init__(self, app: FastAPI) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=STOP_SECONDS,
            lifespan="off",
        )
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; uvicorn's own would raise the signal again, and skip whatever follows `run`."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; called on the event loop."""
        logging.getLogger(__name__).info("stopping")
        self._app.state.closing.close()
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
