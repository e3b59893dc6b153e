"""What is measured: each case is a load, a kind of answer, and the figure read from it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from bench import bodies

SEED = 20261122
CONVERSATIONS = 80
"""More than there are connections, so that a turn is sent only after the turn before it was answered."""
TURNS = 8


class Figure(enum.Enum):
    """What a case is about. The value says which way is better."""

    REQUESTS = "requests per CPU-second (more is better)"
    CHUNKS = "SSE chunks per CPU-second (more is better)"
    CHUNK_COST = "CPU-seconds per million SSE chunks (less is better)"
    REQUEST_COST = "CPU microseconds per request (less is better)"


@dataclass(frozen=True, slots=True)
class Case:
    """One load. Bodies are chats of `size` bytes."""

    name: str
    title: str
    figure: Figure
    size: int
    stream: bool = False
    chunks: int = 1
    """Events of one stream, its end marker not counted."""
    pace_ms: float = 0.0
    chunks_per_write: int = 1
    """Engines write each chunk on its own; more at once shows what relaying costs without the wake-ups."""
    connections: int = 64
    rate: float = 0.0
    """Requests per second of an open loop; 0 is a closed loop."""

    def write_bodies(self, folder: Path) -> Path:
        """The file of bodies, the same for every router."""
        kind = "stream" if self.stream else "json"
        path = folder / f"chats-{self.size}-{kind}.jsonl"
        return bodies.write(path, bodies.chats(self.size, CONVERSATIONS, TURNS, SEED, self.stream))

    def load_options(self) -> list[str]:
        """Options of the load generator, its length and place aside."""
        options = ["-c", str(self.connections), "-S", "cycle"]
        if self.rate:
            options += ["-r", str(self.rate), "-P"]
        return options

    def backend_options(self) -> list[str]:
        """Options of the backend, its ports aside."""
        return ["-k", str(self.chunks), "-d", str(self.pace_ms), "-w", str(self.chunks_per_write)]


KIB = 1024
CASES = (
    Case("1k", "1 KB chats, 64 connections", Figure.REQUESTS, KIB),
    Case("16k", "16 KB chats, 64 connections", Figure.REQUESTS, 16 * KIB),
    Case("64k", "64 KB chats, 64 connections", Figure.REQUESTS, 64 * KIB),
    Case("sse", "streams without pauses, 64 at once", Figure.CHUNKS, KIB, stream=True, chunks=256),
    Case(
        "bulk", "streams without pauses, 64 chunks a write", Figure.CHUNKS, KIB, True, chunks=256, chunks_per_write=64
    ),
    Case("paced", "a chunk every 10 ms on 64 streams", Figure.CHUNK_COST, KIB, stream=True, chunks=100, pace_ms=10.0),
    Case("open", "200 requests/s, 1 KB chats", Figure.REQUEST_COST, KIB, rate=200.0),
)
