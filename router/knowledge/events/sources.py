"""Where a replica publishes its KV events: as configured, as its engine tells, or (if asked) at vLLM's usual ports."""

from __future__ import annotations

import enum
import ipaddress
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.fleetwatch.engine_client import EngineClient, Unreachable

PATH = "/kv_event_sources"
MAX_RANKS = 1024
"""Data-parallel ranks of one engine that are believed."""
_ANY = frozenset({"*", "0.0.0.0", "::", "0:0:0:0:0:0:0:0"})


class Found(enum.Enum):
    """How a source became known."""

    CONFIG = "config"
    ENGINE = "engine"
    CONVENTION = "convention"


class Source(msgspec.Struct, frozen=True):
    """Where one data-parallel rank of one engine publishes. Addresses are ZMQ's, ready to be connected to."""

    rank: int
    events: str
    replay: str | None
    """Where lost batches can be had again; None: nowhere."""
    topic: str | None
    """Exactly what its messages carry; None: not told, anything is taken."""
    found: Found


class Sources(msgspec.Struct, frozen=True):
    """What was found for one engine: at most one source per rank, in order, and what stands in the way of more."""

    by_rank: tuple[Source, ...] = ()
    problems: tuple[str, ...] = ()
    """For the log: what is wrong and what to do."""

    def of(self, rank: int) -> Source | None:
        """The source of one rank."""
        return next((source for source in self.by_rank if source.rank == rank), None)


class Unusable(Exception):
    """An address that cannot, or must not, be connected to. The message says why and what to do."""


class _Told(msgspec.Struct):
    """One rank in the engine's own words: its configuration (0.32), or the addresses it bound (later versions)."""

    endpoint: str | None = None
    replay_endpoint: str | None = None
    topic: str = ""
    publisher: str | None = "zmq"
    enable_kv_cache_events: bool | None = None
    """Present where the answer is the configuration."""
    data_parallel_rank: int | None = None
    buffer_steps: int | None = None


async def ask(client: EngineClient, endpoint: Endpoint, timeout: float = 2.0) -> Sources:  # noqa: ASYNC109
    """What the engine says at `GET /kv_event_sources`; nothing and no problem where it has no such path or no events.

    Only addresses at the engine's own host are taken: an answer must not make us connect to others.
    """
    try:
        status, body = await client.get(endpoint, PATH, timeout)
    except Unreachable as error:
        return Sources(problems=(f"{PATH}: {error}",))
    if status in (403, 404, 405, 501):
        return Sources()
    if status != 200:
        return Sources(problems=(f"{PATH} answered {status}",))
    return read_answer(endpoint, body)


def read_answer(endpoint: Endpoint, body: bytes) -> Sources:
    """The sources in an engine's answer: a map of rank to settings, or a list, bare or as `sources`."""
    try:
        entries = _entries(msgspec.json.decode(body))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return Sources(problems=(f"{PATH}: the answer is not understood: {error}",))
    problems: list[str] = []
    told: dict[int, _Told] = {}
    for rank, value in entries:
        try:
            told[_rank(rank)] = msgspec.convert(value, _Told)
        except (msgspec.ValidationError, ValueError) as error:
            problems.append(f"{PATH}: rank {str(rank)[:20]!r} is not understood: {error}")
    told = {rank: one for rank, one in told.items() if _publishes(one)}
    shared = len(told) > 1 and len({one.endpoint for one in told.values()}) == 1
    found = []
    for rank, one in sorted(told.items()):
        try:
            found.append(_source(endpoint, rank, one, rank if shared else 0, problems))
        except Unusable as error:
            problems.append(f"rank {rank}: {error}")
    return Sources(tuple(found), tuple(problems))


def configured(
    events: str, replay: str | None = None, topic: str | None = None, ranks: Iterable[int] = (0,)
) -> Sources:
    """Addresses as the operator wrote them, for rank 0; TCP ports of the others are counted up from there.

    Raises:
        Unusable: an address is none, or ports of several ranks would run into each other.
    """
    wanted = sorted(set(ranks))
    _check_apart(events, replay, wanted)
    return Sources(
        tuple(
            Source(rank, _offset(events, rank), None if replay is None else _offset(replay, rank), topic, Found.CONFIG)
            for rank in wanted
        )
    )


def by_convention(
    endpoint: Endpoint, ranks: Iterable[int] = (0,), events_port: int = 5557, replay_port: int | None = 5558
) -> Sources:
    """vLLM's usual ports, counted up by rank. Only for operators who ask for it: ports are not probed unasked.

    Raises:
        Unusable: the ports of several ranks would run into each other.
    """
    host = _bracketed(endpoint.host)
    replay = None if replay_port is None else f"tcp://{host}:{replay_port}"
    found = configured(f"tcp://{host}:{events_port}", replay, ranks=ranks).by_rank
    return Sources(tuple(msgspec.structs.replace(source, found=Found.CONVENTION) for source in found))


def _entries(answer: Any) -> list[tuple[object, object]]:
    """(rank, settings) as told."""
    if isinstance(answer, dict) and isinstance(answer.get("sources"), list):
        answer = answer["sources"]
    if isinstance(answer, list):
        pairs = [(one.get("data_parallel_rank") if isinstance(one, dict) else None, one) for one in answer]
        entries = [(index if rank is None else rank, one) for index, (rank, one) in enumerate(pairs)]
    elif isinstance(answer, dict):
        entries = list(answer.items())
    else:
        raise ValueError(f"a {type(answer).__name__}, where a map of ranks or a list was expected")
    if len(entries) > MAX_RANKS:
        raise ValueError(f"{len(entries)} ranks")
    return entries


def _rank(told: object) -> int:
    text = str(told)
    if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text) < MAX_RANKS):
        raise ValueError("the rank is no small number")
    return int(text)


def _publishes(told: _Told) -> bool:
    return told.enable_kv_cache_events is not False and told.publisher == "zmq" and bool(told.endpoint)


def _source(endpoint: Endpoint, rank: int, told: _Told, offset: int, problems: list[str]) -> Source:
    assert told.endpoint is not None
    raw = told.enable_kv_cache_events is not None
    events = _reachable(endpoint, told.endpoint, offset, connects=raw and not _binds(told.endpoint))
    replay = None
    if told.replay_endpoint and told.buffer_steps != 0:
        try:
            replay = _reachable(endpoint, told.replay_endpoint, offset)
        except Unusable as error:
            problems.append(f"rank {rank}: lost events cannot be had again: {error}")
    return Source(rank, events, replay, told.topic, Found.ENGINE)


def _binds(address: str) -> bool:
    """A vLLM publisher binds a wildcard or a local address, and connects to anything else."""
    return not address.startswith("tcp://") or _split(address)[0] in _ANY


def _reachable(endpoint: Endpoint, address: str, offset: int, *, connects: bool = False) -> str:
    """The engine's address as seen from here, its port moved by `offset`."""
    scheme, _, rest = address.partition("://")
    if scheme == "ipc":
        return _local_socket(endpoint, address, rest)
    if scheme != "tcp":
        raise Unusable(f"it publishes at {address}, which other processes cannot reach; use tcp://*:PORT there")
    if connects:
        raise Unusable(
            f"its publisher connects to {address} (no * in the address), so nobody can subscribe to it; "
            "use tcp://*:PORT there"
        )
    host, port = _split(address)
    if host not in _ANY and not _same_host(host, endpoint.host):
        raise Unusable(
            f"it names {address}, which is not at {endpoint.host} where the engine is; if that is right, "
            "configure the address for this backend"
        )
    own = endpoint.host if host in _ANY or _loopback(host) else host
    return _offset(f"tcp://{_bracketed(own)}:{port}", offset)


def _local_socket(endpoint: Endpoint, address: str, path: str) -> str:
    if not _loopback(endpoint.host):
        raise Unusable(f"it publishes at {address}, a file of its own machine; use tcp://*:PORT there")
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        is_socket = False
    if not is_socket:
        raise Unusable(f"it publishes at {address}, where no socket is to be seen from here; use tcp://*:PORT there")
    return address


def _offset(address: str, by: int) -> str:
    """The address of another rank: its TCP port counted up."""
    scheme, _, rest = address.partition("://")
    if scheme == "ipc" and rest and not by:
        return address
    if scheme != "tcp":
        raise Unusable(f"{address!r} is no address that can be subscribed to; write tcp://HOST:PORT")
    host, port = _split(address)
    if port + by > 65535:
        raise Unusable(f"{address!r}: no port is left for rank {by}")
    return f"tcp://{_bracketed(host)}:{port + by}"


def _check_apart(events: str, replay: str | None, ranks: Sequence[int]) -> None:
    """Rank 1's events must not be looked for where rank 0 answers replays."""
    if replay is None or not (events.startswith("tcp://") and replay.startswith("tcp://")):
        return
    (host, first), (other, second) = _split(events), _split(replay)
    if host == other and {first + rank for rank in ranks} & {second + rank for rank in ranks}:
        raise Unusable(
            f"events at {events} and replays at {replay} run into each other with {len(ranks)} data-parallel ranks; "
            "put the two ports further apart"
        )


def _split(address: str) -> tuple[str, int]:
    """Host and port of `tcp://host:port`; IPv6 hosts lose their brackets."""
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if not (colon and host.isascii() and host.isprintable() and 0 < number < 65536) or set(host) & set(" /;,@"):
        raise Unusable(f"{address[:100]!r} is no address; it must read tcp://HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), number


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _same_host(one: str, other: str) -> bool:
    return one.lower() == other.lower() or (_loopback(one) and _loopback(other))


def _loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
