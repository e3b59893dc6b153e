"""What one worker process runs: `python -m kvroute.router.workers FD`, where FD is a socket to its supervisor."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys

import msgspec
import uvloop

from kvroute.router.control.gathered import GatheredPage
from kvroute.router.control.logs import set_up_logs
from kvroute.router.dataplane.memory import keep_freed_memory
from kvroute.router.errors import KvrouteError, PluginError
from kvroute.router.fleetwatch.background import run_in_background
from kvroute.router.server import Server, spare_the_collector
from kvroute.router.workers import messages
from kvroute.router.workers.messages import LONGEST_LINE, AdaptersChanged, Drained, Refused, Said, Stored, Task, Up

log = logging.getLogger(__name__)

FIRST_SECONDS = 1.0
"""Longest wait for replicas before a worker listens where nobody else does: clients are better told than refused."""
OTHERS_SECONDS = 10.0
"""Longest such wait where others serve."""


def main() -> None:
    """Serve until told to stop: by SIGTERM, or by the supervisor's end."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    keep_freed_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = runner.run(_work(connection))
    sys.exit(status)


async def _work(connection: socket.socket) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Told twice is told once: service managers signal every process, and so does the supervisor. It ends the rest.
        loop.add_signal_handler(number, stop.set)
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LONGEST_LINE)
    task = messages.task(await reader.readline())
    set_up_logs(task.config.logging.level, task.config.logging.format, worker=task.index)
    try:
        await _serve(task, reader, writer, stop)
    except (KvrouteError, PluginError) as error:
        writer.write(messages.line(Refused(str(error))))
    except OSError as error:
        writer.write(messages.line(Refused(f"cannot listen: {error.strerror or error}")))
    else:
        return 0
    await writer.drain()
    return 2


async def _serve(task: Task, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stop: asyncio.Event) -> None:
    server = Server(task.config, task.listen, task.index)
    server.local.pages = GatheredPage(task.gathered, server.metrics)
    hearing = asyncio.create_task(_hear(server, reader, stop))
    try:
        await server.prepare()
        for name in task.drained:
            _drain(server, name, True)
        await server.known(OTHERS_SECONDS if task.others_serve else FIRST_SECONDS, stop)
        server.traffic.stored.learned = lambda response, replica: _tell(writer, Stored(response, replica))
        server.local.adapters_changed = lambda: _tell(writer, AdaptersChanged())
        await server.listen()
        _tell(writer, Up(server.control_port))
        spare_the_collector()
        await stop.wait()
        if not await server.drain():
            log.warning("%d requests did not end in time and are cut", len(server.deciding.ledger))
    finally:
        hearing.cancel()
        await server.close()
    log.info("ended")


def _drain(server: Server, name: str, drained: bool) -> None:
    """As an operator told another worker.

    The replica may not have shown its data-parallel ranks here yet; all ranks of an endpoint drain together.
    """
    membership = server.membership
    if not membership.drain(name, drained) and not membership.drain(name.rpartition("/")[0], drained):
        log.info("%s is not listed any more: not drained", name)


def _tell(writer: asyncio.StreamWriter, said: Said) -> None:
    if not writer.is_closing():
        writer.write(messages.line(said))


async def _hear(server: Server, reader: asyncio.StreamReader, stop: asyncio.Event) -> None:
    """Take what other workers learnt; the supervisor's end is ours."""
    looks: set[asyncio.Task[None]] = set()
    while text := await _line(reader):
        try:
            said = messages.said(text)
        except msgspec.DecodeError as error:
            log.warning("the supervisor wrote what is no message: %s", error)
            continue
        if isinstance(said, Stored):
            server.traffic.stored.keep(said.response, said.replica)
        elif isinstance(said, AdaptersChanged):
            look = run_in_background(server.local.rediscover(), "look at adapters")
            looks.add(look)
            look.add_done_callback(looks.discard)
        elif isinstance(said, Drained):
            _drain(server, said.name, said.drained)
    if not stop.is_set():
        log.error("the supervisor is gone: draining")
        stop.set()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The supervisor's next line, empty when it has ended: with a reset where it left words of ours unread."""
    try:
        return await reader.readline()
    except (ConnectionError, ValueError):
        return b""
