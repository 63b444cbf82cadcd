"""What a Service of Kubernetes does: one address, behind which any replica that lives answers."""

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

CONNECT_SECONDS = 2.0
PIECE_BYTES = 65_536


class ServicePort:
    """Listens on a port of its own and hands each connection to the next replica that takes it."""

    def __init__(self, replicas: Sequence[int]) -> None:
        """Begin to listen; `replicas` are ports of this host."""
        self._replicas = list(replicas)
        self._turn = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            replica = self._connect()
            if replica is None:
                client.close()
                continue
            for source, sink in ((client, replica), (replica, client)):
                threading.Thread(target=_carry, args=(source, sink), daemon=True).start()

    def _connect(self) -> socket.socket | None:
        for _ in self._replicas:
            self._turn += 1
            port = self._replicas[self._turn % len(self._replicas)]
            with suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS)
                connection.settimeout(None)
                return connection
        return None


def _carry(source: socket.socket, sink: socket.socket) -> None:
    """Copy until either side ends."""
    with suppress(OSError):
        while piece := source.recv(PIECE_BYTES):
            sink.sendall(piece)
    for one in (source, sink):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
