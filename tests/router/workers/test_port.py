"""The port that workers share: nobody else gets it, and nobody is joined unseen."""

from __future__ import annotations

import socket

import pytest

from kvroute.router.workers.port import ReservedPort


def listener(port: int, *, shared: bool = False) -> socket.socket:
    """A socket that listens as a server does."""
    return socket.create_server(("127.0.0.1", port), reuse_port=shared)


def test_a_free_port_is_the_same_for_all_workers() -> None:
    """Port 0 is decided once; each worker then listens on it, and connections reach those that do."""
    with (
        ReservedPort("127.0.0.1", 0) as reserved,
        listener(reserved.port, shared=True),
        listener(reserved.port, shared=True) as another,
        socket.create_connection(another.getsockname()),
    ):
        assert another.getsockname()[1] == reserved.port > 0


def test_whoever_listens_already_is_not_joined() -> None:
    """Not even a server that would share its port."""
    for shared in (False, True):
        with listener(0, shared=shared) as other:
            port = other.getsockname()[1]
            with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}: address already in use"):
                ReservedPort("127.0.0.1", port)


def test_nobody_else_gets_the_port_while_no_worker_listens() -> None:
    """Neither a second supervisor, nor a router of one process."""
    with ReservedPort("127.0.0.1", 0) as reserved:
        with pytest.raises(OSError, match="in use"):
            ReservedPort("127.0.0.1", reserved.port)
        with pytest.raises(OSError, match="in use"):
            listener(reserved.port)
    listener(reserved.port).close()


def test_a_port_with_dying_connections_can_be_taken() -> None:
    """As after a restart of a router of one process, whose connections linger in the kernel for a minute."""
    with listener(0) as server, socket.create_connection(server.getsockname()):
        port = server.getsockname()[1]
        server.accept()[0].close()
    ReservedPort("127.0.0.1", port).close()


def test_an_address_of_another_machine_is_told() -> None:
    """With the address."""
    with pytest.raises(OSError, match=r"192\.0\.2\.1:0: "):
        ReservedPort("192.0.2.1", 0)


def test_all_addresses_of_a_host_have_one_port() -> None:
    """IPv4 and IPv6, where this machine has both."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    with ReservedPort("", 0) as reserved, pytest.raises(OSError, match="in use"):
        socket.create_server(("::1", reserved.port), family=socket.AF_INET6)
