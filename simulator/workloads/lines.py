"""A trace's lines, one by one, with errors that say where."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from kvroute.simulator.errors import WorkloadError

MOST_TOKENS = 10_000_000
"""What a trace says is longer is taken for a broken line [tokens]."""
MOST_SECONDS = 1e10
"""A time beyond this is none [s]."""


def lines(path: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line that is not empty; `.gz` is unpacked.

    Raises:
        WorkloadError: it cannot be read, is cut off, is no UTF-8, or has no lines.
    """
    number = 0
    found = False
    try:
        with gzip.open(path, "rb") if path.endswith(".gz") else Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    found = True
                    yield number, text
    except UnicodeDecodeError as error:
        raise WorkloadError(f"{path}:{number}: not UTF-8 (byte {error.start}); is it compressed?") from error
    except (EOFError, zlib.error) as error:
        raise WorkloadError(f"{path}:{number + 1}: the compressed file is cut off or damaged: {error}") from error
    except OSError as error:
        raise WorkloadError(f"{path}: {error.strerror or error}") from error
    if not found:
        raise WorkloadError(f"{path}: the file is empty")


def refuse(path: str, number: int, reason: str) -> NoReturn:
    """Raise with file, line and reason."""
    raise WorkloadError(f"{path}:{number}: {reason}")
