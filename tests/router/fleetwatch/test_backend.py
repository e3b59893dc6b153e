"""Backends as they are written on the command line."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.errors import ConfigError
from kvroute.router.fleetwatch.backend import DEFAULT_SLOTS, Backend, check_distinct, parse_backend
from kvroute.scorers.contract import Role


def test_a_bare_url_gets_the_defaults() -> None:
    """Nothing but a URL is needed."""
    backend = parse_backend("http://10.0.0.5:8000")
    assert backend == Backend(Endpoint("10.0.0.5", 8000), Role.BOTH, (), DEFAULT_SLOTS, {})


def test_every_option_is_read() -> None:
    """Role, models, slots and labels stand behind the URL."""
    backend = parse_backend("http://h:1,role=prefill,model=a,model=b,label.zone=x,label.gpu=h100,slots=64")
    assert (backend.role, backend.models, backend.slots) == (Role.PREFILL, ("a", "b"), 64)
    assert backend.labels == {"zone": "x", "gpu": "h100"}


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("http://[::1]:8000", Endpoint("::1", 8000)),
        ("https://engine.example", Endpoint("engine.example", 443, True)),
        ("http://engine.example/", Endpoint("engine.example", 80)),
        ("https://h:8443/team/a/", Endpoint("h", 8443, True, b"/team/a")),
        (" HTTP://Host:80 ", Endpoint("host", 80)),
    ],
)
def test_urls(text: str, endpoint: Endpoint) -> None:
    """IPv6, TLS, default ports and base paths are understood."""
    assert parse_backend(text).endpoint == endpoint


def test_an_ipv6_endpoint_has_brackets_in_its_name() -> None:
    """The name can be pasted into a URL."""
    assert parse_backend("http://[fe80::2]:8000").endpoint.name == "[fe80::2]:8000"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "http://"),
        ("10.0.0.5:8000", "http://"),
        ("ftp://h:1", "http://"),
        ("http://", "no host"),
        ("http://h:99999", "http://10.0.0.5:8000"),
        ("http://h:0", "port 0"),
        ("http://h:x", "http://10.0.0.5:8000"),
        ("http://u:p@h:1", "--backend-api-key-env"),
        ("http://h:1?x=1", "query"),
        ("http://h:1/v1", "leave /v1 off"),
        ("http://h:1/a b", "percent-encode"),
        ("http://h:1,role=both,role", "no value"),
        ("http://h:1,role=", "no value"),
        ("http://h:1,role=boss", "both, prefill, decode"),
        ("http://h:1,colour=red", "label.NAME"),
        ("http://h:1,label.=red", "label.NAME"),
        ("http://h:1,slots=0", "whole number"),
        ("http://h:1,slots=-3", "whole number"),
        ("http://h:1,slots=٣", "whole number"),
        ("http://[::1:8000", "http://[::1]:8000"),
    ],
)
def test_a_wrong_backend_is_named_with_what_to_write(text: str, hint: str) -> None:
    """The error starts with the key, quotes the text and says what to do."""
    with pytest.raises(ConfigError) as caught:
        parse_backend(text)
    message = str(caught.value)
    assert message.startswith(f"backend: {text!r}")
    assert hint in message


@settings(deadline=None)
@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but ConfigError comes out of bad text."""
    try:
        backend = parse_backend("http://" + text)
    except ConfigError:
        return
    assert backend.endpoint.host
    assert 1 <= backend.endpoint.port <= 65535


def test_one_endpoint_twice_is_refused() -> None:
    """Two entries for one engine would count its load twice."""
    backend = parse_backend("http://h:1")
    with pytest.raises(ConfigError, match="h:1 is given twice"):
        check_distinct([backend, parse_backend("http://h:1,role=decode")])
    assert check_distinct([backend]) == [backend]


def test_event_sockets_are_read() -> None:
    """Where an engine publishes may be written behind its URL, instead of asking it."""
    backend = parse_backend("http://a:8000,events=tcp://a:5557,replay=tcp://a:5558")
    assert (backend.events, backend.replay) == ("tcp://a:5557", "tcp://a:5558")
    assert parse_backend("http://a:8000,events=ipc:///run/a.sock").events == "ipc:///run/a.sock"


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("events=a:5557", "must be tcp://HOST:PORT"),
        ("events=tcp://a", "must be tcp://HOST:PORT"),
        ("events=tcp://a:99999", "must be tcp://HOST:PORT"),
        ("events=tcp://*:5557", "must name a host"),
        ("replay=tcp://a:5558", "of no use without events"),
    ],
)
def test_event_sockets_that_cannot_be_connected_to_are_refused(options: str, fault: str) -> None:
    """The message says what is wrong with it."""
    with pytest.raises(ConfigError, match=re.escape(fault)):
        parse_backend(f"http://a:8000,{options}")
