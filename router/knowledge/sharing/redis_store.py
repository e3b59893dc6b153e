"""The store in Redis or Valkey: one server, what sentinels guard, or a cluster. The only file that imports redis.

At least version 6.2 (XADD ... MINID). Batches are run by one small script, so that conditions and writes are one step;
a user with restricted rights needs the scripting commands besides those for strings and Streams.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, assert_never

from redis import exceptions as told
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from kvroute.router.knowledge.sharing.place import Place
from kvroute.router.knowledge.sharing.store import (
    About,
    Append,
    Batch,
    Drop,
    Ends,
    Entry,
    EntryId,
    Expire,
    Outcome,
    Put,
    StoreDown,
    Trim,
    Trouble,
    Write,
)

log = logging.getLogger(__name__)

OLDEST = (6, 2)
"""The oldest version of Redis that will do."""
_TAG = re.compile(r"\{([^}]+)\}")
_GLOB = re.compile(r"([*?\[\]\\^-])")
_CONNECTIONS = 4096
"""In a cluster each replica's logs have a waiting connection of their own."""

_COMMIT = """
local given = tonumber(ARGV[1])
for i = 1, given do
  local held = redis.call('GET', KEYS[i])
  if (held and '=' .. held or '-') ~= ARGV[i + 1] then return 'given' end
end
local at = given + 2
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  local answer = redis.pcall(unpack(ARGV, at + 1, at + words))
  if type(answer) == 'table' and answer.err then
    if string.find(answer.err, 'equal or smaller', 1, true) then return 'stale' end
    return answer
  end
  at = at + words + 1
end
return 'done'
"""
"""KEYS: those with conditions first. ARGV: number of conditions, each `-` (absent) or `=value`, then for each write the
number of its words and the words. Only an XADD with an id can be stale, and it is the first write: nothing was done."""

_ENDS = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {'0-0', '0-0', 0} end
local told = redis.call('XINFO', 'STREAM', KEYS[1])
local found = {}
for i = 1, #told, 2 do found[told[i]] = told[i + 1] end
local first = found['first-entry']
return {first and first[1] or '0-0', found['last-generated-id'], found['length']}
"""
"""XINFO without the entries themselves."""


class _Script:
    """A script and what it is called by once the server knows it."""

    __slots__ = ("name", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.name = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


_COMMITTING = _Script(_COMMIT)
_ENDING = _Script(_ENDS)


class RedisStore:
    """A `Store`. `limit` is how long one call may take [s], besides the time that a read is asked to wait."""

    def __init__(self, place: Place, *, limit: float = 0.5) -> None:
        self._place = place
        self._limit = limit
        self._sentinel: Sentinel | None = None
        self._client = self._connect(place)

    def _connect(self, place: Place) -> Any:
        """A client that neither retries nor limits time by itself: both are decided here."""
        common: dict[str, Any] = {
            "username": place.user,
            "password": place.password,
            "protocol": 2,
            "socket_timeout": None,
            "socket_connect_timeout": None,
            "max_connections": _CONNECTIONS,
            "retry": Retry(NoBackoff(), 0),
        }
        if place.tls:
            common |= {"ssl": True, "ssl_ca_certs": place.ca_file}
        if place.mode == "cluster":
            return RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in place.nodes], **common)
        if place.mode == "standalone":
            (host, port), *_ = place.nodes
            return Redis(host=host, port=port, db=place.database, **common)
        self._sentinel = Sentinel([], db=place.database, **common)  # type: ignore[no-untyped-call]
        alike = {"protocol": 2, "retry": common["retry"], "socket_timeout": self._limit / (2 * len(place.logins))}
        if place.tls:
            alike |= {"ssl": True, "ssl_ca_certs": place.ca_file}
        self._sentinel.sentinels = [
            Redis(host=host, port=port, username=user, password=password, **alike)
            for user, password in place.logins
            for host, port in place.nodes
        ]
        return self._sentinel.master_for(place.service)

    @asynccontextmanager
    async def _call(self, what: str, extra: float = 0.0) -> AsyncIterator[None]:
        """One call's time limit, and the one error that comes out of it."""
        try:
            async with asyncio.timeout(self._limit + extra):
                yield
        except (told.RedisError, OSError, TimeoutError) as error:
            raise _down(what, error) from None  # the cause may carry secrets

    async def commit(self, batches: Sequence[Batch]) -> list[Outcome]:
        if not batches:
            return []
        async with self._call("commit"):
            answers = await self._run(_COMMITTING, [_program(batch) for batch in batches])
        return [Outcome(_text(answer)) for answer in answers]

    async def _run(self, script: _Script, calls: Sequence[list[Any]]) -> list[Any]:
        """The answers of one script to several calls, sent together. A server that does not know it is told."""
        answers = await self._pipeline([["EVALSHA", script.name, *call] for call in calls])
        missing = [at for at, answer in enumerate(answers) if isinstance(answer, told.NoScriptError)]
        if missing:
            again = await self._pipeline([["EVAL", script.text, *calls[at]] for at in missing])
            for at, answer in zip(missing, again, strict=True):
                answers[at] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _pipeline(self, commands: Sequence[list[Any]]) -> list[Any]:
        """The answers or errors, in order."""
        if len(commands) == 1 and self._place.mode != "cluster":
            try:
                return [await self._client.execute_command(*commands[0])]
            except told.NoScriptError as error:
                return [error]
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        if self._place.mode == "cluster" and any(isinstance(answer, told.ConnectionError) for answer in answers):
            await self._client.aclose()  # the next call asks anew who serves what
        return answers

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        async with self._call("get"):
            answers = await self._pipeline([["GET", key] for key in keys])
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers

    def together(self, keys: Sequence[str]) -> list[list[str]]:
        if self._place.mode != "cluster":
            return [list(keys)] if keys else []
        groups: dict[str, list[str]] = {}
        for key in keys:
            tag = _TAG.search(key)
            groups.setdefault(tag[1] if tag else key, []).append(key)
        return list(groups.values())

    async def read(self, after: Mapping[str, EntryId], *, block_ms: int, count: int) -> dict[str, list[Entry]]:
        if not after:
            return {}
        command: list[Any] = ["XREAD", "COUNT", count]
        if block_ms:
            command += ["BLOCK", block_ms]
        command += ["STREAMS", *after, *map(str, after.values())]
        async with self._call("read", block_ms / 1000):
            answer = await self._client.execute_command(*command, **await self._at(next(iter(after))))
        return {_text(key): _entries(entries) for key, entries in answer or ()}

    async def _at(self, key: str) -> dict[str, Any]:
        """Where a command goes whose keys the cluster's client would ask the server for."""
        if self._place.mode != "cluster":
            return {}
        await self._client.initialize()
        return {"target_nodes": self._client.get_node_from_key(key)}

    async def span(self, key: str, first: EntryId, last: EntryId, count: int) -> list[Entry]:
        async with self._call("span"):
            return _entries(await self._client.execute_command("XRANGE", key, str(first), str(last), "COUNT", count))

    async def ends(self, keys: Sequence[str]) -> list[Ends]:
        if not keys:
            return []
        async with self._call("ends"):
            answers = await self._run(_ENDING, [[1, key] for key in keys])
        return [
            Ends(EntryId.parse(_text(first)), EntryId.parse(_text(last)), int(length))
            for first, last, length in answers
        ]

    async def time_ms(self, key: str) -> int:
        async with self._call("time"):
            answer = await self._client.execute_command("TIME", **await self._at(key))
        seconds, micros = answer
        return int(seconds) * 1000 + int(micros) // 1000

    async def scan(self, prefix: str) -> list[str]:
        pattern = _GLOB.sub(r"\\\1", prefix) + "*"
        found: list[str] = []
        for node in await self._nodes():
            cursor: int | None = None
            while cursor != 0:
                async with self._call("scan"):
                    cursor, keys = await self._client.execute_command(
                        "SCAN", cursor or 0, "MATCH", pattern, "COUNT", 1000, **node
                    )
                if isinstance(cursor, dict):  # a cluster's client tells it by node
                    (cursor,) = cursor.values()
                found += map(_text, keys)
        return found

    async def _nodes(self) -> list[dict[str, Any]]:
        """What sends a command to each node that holds keys."""
        if self._place.mode != "cluster":
            return [{}]
        async with self._call("cluster nodes"):
            await self._client.initialize()
            return [{"target_nodes": node} for node in self._client.get_primaries()]

    async def about(self) -> About:
        used = limit = 0
        evicts = False
        info: dict[str, Any] = {}
        for node in await self._nodes():
            async with self._call("info"):
                info = await self._client.execute_command("INFO", **node)
            used += int(info.get("used_memory", 0))
            limit += int(info.get("maxmemory", 0))
            evicts |= str(info.get("maxmemory_policy", "noeviction")).startswith("allkeys")
        kind = "valkey" if info.get("server_name") == "valkey" else "redis"
        version = str(info.get("valkey_version" if kind == "valkey" else "redis_version", ""))
        if kind == "redis" and tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
            raise StoreDown(Trouble.WRONG, f"Redis {version or 'of unknown version'}: 6.2 or later is needed")
        return About(kind, version, self._place.mode, used, limit, evicts)

    async def close(self) -> None:
        for client in (self._client, self._sentinel):
            try:
                if client is not None:
                    async with self._call("close"):
                        await client.aclose()
            except StoreDown as error:  # a server that hangs does not answer the end of TLS either
                log.info("a connection to the shared store was not closed by both sides: %s", error)


def _program(batch: Batch) -> list[Any]:
    """A batch as the arguments of the commit script: number of keys, keys, words."""
    keys = dict.fromkeys(batch.given) | dict.fromkeys(write.key for write in batch.writes)
    words: list[Any] = [len(batch.given)]
    words += [b"-" if value is None else b"=" + value for value in batch.given.values()]
    for write in batch.writes:
        for command in _commands(write):
            words += [len(command), *command]
    return [len(keys), *keys, *words]


def _commands(write: Write) -> list[list[Any]]:
    """The commands that make one write."""
    if isinstance(write, Append):
        fields = [part for field in write.fields.items() for part in field]
        keep: list[Any] = [] if write.longest is None else ["MAXLEN", "=", write.longest]
        commands = [["XADD", write.key, *keep, "*" if write.id is None else str(write.id), *fields]]
        return commands if write.since is None else [*commands, *_commands(Trim(write.key, write.since))]
    if isinstance(write, Trim):
        return [["XTRIM", write.key, "MINID", "=", str(write.since)]]
    if isinstance(write, Put):
        return [["SET", write.key, write.value, *([] if write.ttl_ms is None else ["PX", write.ttl_ms])]]
    if isinstance(write, Expire):
        return [["PEXPIRE", write.key, write.ttl_ms]]
    if isinstance(write, Drop):
        return [["UNLINK", write.key]]
    assert_never(write)


def _entries(answer: Any) -> list[Entry]:
    return [Entry(EntryId.parse(_text(id)), fields) for id, fields in answer or ()]


def _text(answer: bytes | str) -> str:
    return answer if isinstance(answer, str) else answer.decode("utf-8", "replace")


_TROUBLES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Trouble], ...] = (
    ((TimeoutError, told.TimeoutError), Trouble.SLOW),
    (told.OutOfMemoryError, Trouble.FULL),
    (
        (told.AuthenticationError, told.AuthorizationError, told.NoPermissionError, told.ReadOnlyError, told.AskError),
        Trouble.REFUSED,
    ),
    ((told.BusyLoadingError, told.ClusterDownError, told.MasterDownError), Trouble.UNREACHABLE),
    ((told.RedisClusterException, told.ConnectionError, OSError), Trouble.UNREACHABLE),
)
"""First match wins; `TimeoutError` is an OSError, `AuthenticationError` redis' ConnectionError."""
_CODES = {
    "OOM": Trouble.FULL,
    "MISCONF": Trouble.REFUSED,
    "NOREPLICAS": Trouble.REFUSED,
    "NOAUTH": Trouble.REFUSED,
    "WRONGPASS": Trouble.REFUSED,
    "BUSY": Trouble.SLOW,
    "READONLY": Trouble.REFUSED,
    "NOPERM": Trouble.REFUSED,
}
"""By the first word of the server's error."""
_IN_SCRIPT = re.compile(r"^@user_script: ?\d+: -?")
"""What Redis before 7 puts before the error of a command that a script ran."""


def _down(what: str, error: BaseException) -> StoreDown:
    """The error that callers see: what was tried and the kind of failure. Its text, which may carry secrets, stays."""
    about = f"{what}: {type(error).__name__}"
    for kinds, trouble in _TROUBLES:
        if isinstance(error, kinds):
            return StoreDown(trouble, about)
    if isinstance(error, told.ClusterError):
        return StoreDown(Trouble.REFUSED, about)
    code = _IN_SCRIPT.sub("", str(error)).split(" ", 1)[0]
    known = _CODES.get(code)
    return StoreDown(known or Trouble.WRONG, f"{about} {code}" if code.isupper() else about)
