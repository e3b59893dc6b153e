"""Redis in its various settings: TLS, users, a cluster, sentinels; and each way in which it does not serve."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import logging
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kvroute.router.knowledge.sharing.place import Place, place
from kvroute.router.knowledge.sharing.redis_store import RedisStore
from kvroute.router.knowledge.sharing.store import (
    Append,
    Batch,
    EntryId,
    Outcome,
    Put,
    Store,
    StoreDown,
    Trouble,
)
from tests.router.knowledge.sharing.servers import Server, guarded, server

SECRET = "s3cret-word"


async def works(store: Store, tag: str = "t") -> None:
    """One round of everything that logs need."""
    log, key = f"{{{tag}}}:log", f"{{{tag}}}:key"
    append = Batch([Append(log, {b"a": b"b"}, id=EntryId(5, 1)), Put(key, b"1")], given={key: None})
    assert await store.commit([append, append]) == [Outcome.DONE, Outcome.GIVEN]
    assert [id for id, _ in (await store.read({log: EntryId()}, block_ms=10, count=1))[log]] == [EntryId(5, 1)]
    assert (await store.ends([log]))[0].last == EntryId(5, 1)
    assert await store.get([key]) == [b"1"]
    assert await store.time_ms(key) > 0


async def down(store: Store) -> Trouble:
    """What is wrong with it."""
    with pytest.raises(StoreDown) as found:
        await store.get(["{t}:key"])
    assert SECRET not in str(found.value) + repr(found.value)
    assert found.value.__cause__ is None
    return found.value.trouble


async def test_versions(redis_store: RedisStore) -> None:
    """What the server is, how much memory it has and may have, is told at connect."""
    about = await redis_store.about()
    assert about.kind in ("redis", "valkey")
    assert about.mode == "standalone"
    assert about.used_bytes > 100_000
    assert about.limit_bytes == 0
    assert not about.evicts


async def test_the_script_is_loaded_again(redis_store: RedisStore, redis_server: Server) -> None:
    """A server that forgot the scripts is told them again, in single and in several batches."""
    await works(redis_store)
    redis_server.tell("SCRIPT", "FLUSH")
    assert await redis_store.commit([Batch([Put(f"{{t}}:{i}", b"")]) for i in range(3)]) == [Outcome.DONE] * 3
    redis_server.tell("SCRIPT", "FLUSH")
    assert len(await redis_store.ends(["{t}:log"])) == 1


async def test_users(caplog: pytest.LogCaptureFixture) -> None:
    """A user with a password and no more rights than are needed gets in; a wrong password, or none, is refused, and the
    secret is in no message."""
    caplog.set_level(logging.DEBUG)
    rights = ["~{*", "+@read", "+@write", "+@scripting", "+@connection", "+time", "+info"]
    with server("--requirepass", "other", password="other") as running:
        assert "OK" in running.tell("ACL", "SETUSER", "kv", "on", f">{SECRET}", *rights)
        good = RedisStore(_at(running, "kv", SECRET))
        await works(good)
        await good.about()
        for wrong in (_at(running, "kv", SECRET + "x"), _at(running)):
            store = RedisStore(wrong)
            assert await down(store) is Trouble.REFUSED
            await store.close()
        with pytest.raises(StoreDown) as found:
            await good.get(["outside"])
        assert found.value.trouble is Trouble.REFUSED
        await good.close()
    assert SECRET not in caplog.text


def _at(running: Server, user: str | None = None, password: str | None = None) -> Place:
    return Place(mode="standalone", nodes=(("127.0.0.1", running.port),), user=user, password=password)


async def test_full(redis_server: Server, redis_store: RedisStore) -> None:
    """A server out of memory refuses a batch as a whole, says so, and still reads and expires."""
    await redis_store.commit([Batch([Put("{t}:key", b"1")])])
    redis_server.tell("CONFIG", "SET", "maxmemory", "1")
    try:
        both = Batch([Append("{t}:log", {b"a": b"b"}, id=EntryId(1, 1)), Put("{t}:key", b"2")])
        for batches in ([both], [both, both]):
            with pytest.raises(StoreDown) as found:
                await redis_store.commit(batches)
            assert found.value.trouble is Trouble.FULL
        assert await redis_store.get(["{t}:key"]) == [b"1"]
    finally:
        redis_server.tell("CONFIG", "SET", "maxmemory", "0")
    assert (await redis_store.ends(["{t}:log"]))[0].length == 0


async def test_unreachable() -> None:
    """Nobody at the address, or a server that dies with connections open: told at once, and the next one is found."""
    with server() as first:
        port = first.port
        store = RedisStore(place(first.url))
        await works(store)
        first.kill()
        assert await down(store) is Trouble.UNREACHABLE
        assert await down(store) is Trouble.UNREACHABLE
    with server(port=port):
        await works(store)
    await store.close()


async def test_paused() -> None:
    """A server that is stopped costs each call its time limit; what was sent then may be carried out late."""
    with server() as running:
        store = RedisStore(place(running.url), limit=0.2)
        await works(store)
        running.pause()
        start = time.monotonic()
        with pytest.raises(StoreDown) as found:
            await store.commit([Batch([Put("{t}:late", b"1")])])
        assert found.value.trouble is Trouble.SLOW
        assert await down(store) is Trouble.SLOW
        assert 0.4 <= time.monotonic() - start < 1.0
        running.resume()
        deadline = time.monotonic() + 5
        while (await store.get(["{t}:late"])) != [b"1"]:
            assert time.monotonic() < deadline
        await store.close()


async def test_read_only(redis_server: Server) -> None:
    """A copy that takes no writes is refused as such."""
    with server("--replicaof", "127.0.0.1", str(redis_server.port)) as copy:
        store = RedisStore(place(copy.url))
        with pytest.raises(StoreDown) as found:
            await store.commit([Batch([Put("{t}:key", b"1")])])
        assert found.value.trouble is Trouble.REFUSED
        await store.close()


async def test_cluster(redis_cluster: list[Server]) -> None:
    """In a cluster each tag's keys are together: batches, reads by group, scans over all nodes."""
    store = RedisStore(place(f"redis+cluster://127.0.0.1:{redis_cluster[0].port}"), limit=3.0)
    tags = [f"ns:replica-{number}" for number in range(12)]
    for tag in tags:
        await works(store, tag)
    logs = [f"{{{tag}}}:log" for tag in tags]
    groups = store.together([*logs, f"{{{tags[0]}}}:other"])
    assert sorted(map(len, groups)) == [1] * 11 + [2]
    batches = [Batch([Append(log, {b"a": b"b"}, id=EntryId(5, 2))]) for log in logs]
    assert await store.commit(batches) == [Outcome.DONE] * 12
    reads = [store.read({key: EntryId(5, 1) for key in group}, block_ms=500, count=9) for group in groups]
    found = await asyncio.gather(*reads)
    assert sorted(key for answer in found for key in answer) == sorted(logs)
    assert len({node.port for node in redis_cluster if "log" in node.tell("KEYS", "*")}) == 3
    assert sorted(await store.scan("{ns:")) == sorted([*logs, *(log.replace(":log", ":key") for log in logs)])
    about = await store.about()
    assert about.mode == "cluster"
    redis_cluster[2].tell("CLIENT", "KILL", "TYPE", "normal")
    for tag in tags:
        with contextlib.suppress(StoreDown):
            await store.get([f"{{{tag}}}:key"])
    assert await store.get([f"{{{tag}}}:key" for tag in tags]) == [b"1"] * 12
    await store.close()


async def test_sentinels() -> None:
    """When the primary dies, its copy is found through the sentinel."""
    with guarded("here") as (primary, copy, sentinel):
        store = RedisStore(place(f"redis+sentinel://127.0.0.1:{sentinel.port}/here"), limit=1.0)
        await works(store)
        primary.tell("WAIT", 1, 1000)
        primary.kill()
        assert await down(store) in (Trouble.UNREACHABLE, Trouble.REFUSED)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(StoreDown):
                    if await store.commit([Batch([Put("{t}:new", b"1")])]) == [Outcome.DONE]:
                        break
                await asyncio.sleep(0.1)
        assert await store.get(["{t}:key"]) == [b"1"]
        assert "1" in copy.tell("GET", "{t}:new")
        await store.close()


@pytest.mark.parametrize("own", [SECRET, None, "another"])
async def test_sentinels_with_a_password(own: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers' own, none, or one of theirs, which is then a setting."""
    monkeypatch.setenv("KV_PASSWORD", SECRET)
    monkeypatch.setenv("KV_SENTINEL", "another")
    theirs = "KV_SENTINEL" if own == "another" else None
    with guarded("here", SECRET, own) as (_, _, sentinel):
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/here"
        store = RedisStore(place(url, password_env="KV_PASSWORD", sentinel_password_env=theirs), limit=1.0)
        await works(store)
        await store.close()
        if own:
            store = RedisStore(place(url, password_env="KV_PASSWORD", sentinel_user="nobody"), limit=1.0)
            assert await down(store) in (Trouble.REFUSED, Trouble.UNREACHABLE)
            await store.close()


async def test_closing_while_a_tls_server_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It does not end its side: that is logged, and not the closer's trouble."""
    certificate = _certificate(tmp_path / "both.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    over = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def hang() -> None:
        with context.wrap_socket(listening.accept()[0], server_side=True) as wire:
            answered = 0
            while answered < 1:
                data = wire.recv(1 << 16)
                for _ in range(data.count(b"*")):
                    wire.sendall(b"$1\r\nx\r\n" if b"GET" in data else b"+OK\r\n")
                answered += b"GET" in data
            over.wait()

    thread = threading.Thread(target=hang)
    thread.start()
    store = RedisStore(place(f"rediss://127.0.0.1:{listening.getsockname()[1]}", ca_file=str(certificate)), limit=0.3)
    assert await store.get(["a"]) == [b"x"]
    with caplog.at_level(logging.INFO):
        await store.close()
    assert "not closed by both sides" in caplog.text
    over.set()
    thread.join()
    listening.close()


async def test_tls(redis_server: Server, tmp_path: Path) -> None:
    """Over TLS the server's certificate must be signed by the given authority; a stranger's is turned down."""
    certificate = _certificate(tmp_path / "both.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner = await asyncio.open_connection("127.0.0.1", redis_server.port)
        await asyncio.gather(carry(reader, inner), carry(inner_reader, writer), return_exceptions=True)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(both(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    front = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    url = f"rediss://127.0.0.1:{front.sockets[0].getsockname()[1]}"
    redis_server.tell("FLUSHALL")
    trusting = RedisStore(place(url, ca_file=str(certificate)), limit=2.0)
    await works(trusting)
    await trusting.close()
    stranger = RedisStore(place(url), limit=2.0)
    assert await down(stranger) is Trouble.UNREACHABLE
    await stranger.close()
    front.close()
    await asyncio.gather(*tasks, return_exceptions=True)


def _certificate(path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*form) + signed.public_bytes(serialization.Encoding.PEM))
    return path


def test_redis_is_imported_here_only() -> None:
    """No other file of the router knows redis."""
    router = Path(__file__).parents[4] / "router"
    assert router.is_dir()
    naming = [
        path.name
        for path in router.rglob("*.py")
        if any(line.lstrip().startswith(("import redis", "from redis")) for line in path.read_text().splitlines())
    ]
    assert naming == ["redis_store.py"]
