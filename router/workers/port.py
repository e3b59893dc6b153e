"""The client port that all workers share: taken for them, and kept from everybody else."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeAlias

_Address: TypeAlias = tuple[Any, ...]
"""As socket has it: host, port, and for IPv6 two numbers more."""


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

    def _hold(self, family: socket.AddressFamily, address: _Address) -> None:
        with _bound(family, (address[0], self.port, *address[2:]), socket.SO_REUSEADDR) as probe:
            self.port = probe.getsockname()[1]
        wanted = (address[0], self.port, *address[2:])
        try:
            # Without SO_REUSEADDR, or two that do not listen yet would not see each other.
            held = _bound(family, wanted, socket.SO_REUSEPORT)
        except OSError:  # connections of an earlier process that did not share are still dying away there
            held = _bound(family, wanted, socket.SO_REUSEPORT, socket.SO_REUSEADDR)
        self._held.enter_context(held)

    def __enter__(self) -> ReservedPort:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let it go."""
        self._held.close()


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, _Address]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(family: socket.AddressFamily, address: _Address, *options: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        where = f"[{address[0]}]:{address[1]}" if family == socket.AF_INET6 else f"{address[0]}:{address[1]}"
        why = "address already in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise OSError(error.errno, f"{where}: {why}") from error
    return bound
