"""The client port that all workers share: taken for them, and kept from everybody else."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack


class ReservedPort:
    """Holds an address for workers that listen on it with SO_REUSEPORT; the sockets here are bound and never listen.

    SO_REUSEPORT alone would let a second kvroute of the same user share the port unseen. So the address is first bound
    without it, which fails where anybody listens; and what is held afterwards makes everybody else's such try fail.
    """

    def __init__(self, host: str, port: int) -> None:
        """Take `port` (0: a free one) of every address of `host`.

        Raises:
            OSError: it cannot be had; the message names the address.
        """
        self._held = ExitStack()
        self.port = port
        try:
            for family, address in _addresses(host, port):
                self._hold(family, address)
        except OSError:
            self.close()
            raise

    def _hold(self, family: socket.AddressFamily, address: tuple[str | int, ...]) -> None:
        wanted = (address[0], self.port, *address[2:])
        with _bound(family, wanted, shared=False) as probe:
            self.port = probe.getsockname()[1]
        self._held.enter_context(_bound(family, (address[0], self.port, *address[2:]), shared=True))

    def close(self) -> None:
        """Let it go."""
        self._held.close()


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str | int, ...]]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(family: socket.AddressFamily, address: tuple[str | int, ...], *, shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        where = f"[{address[0]}]:{address[1]}" if family == socket.AF_INET6 else f"{address[0]}:{address[1]}"
        why = "address already in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise OSError(error.errno, f"{where}: {why}") from error
    return bound
