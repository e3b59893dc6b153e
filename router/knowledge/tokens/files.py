"""Reading the files of a model's folder, which an engine may have named: never one that hangs, and never a huge one."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

MOST_TOKENIZER_BYTES = 64 << 20
"""Of a tokenizer.json: the largest vocabularies take half of it."""
MOST_BYTES = 4 << 20
"""Of every other file."""


def data(file: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """What a plain file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no plain file (a pipe would never end), or larger than `most_bytes`.
    """
    opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(opened, "rb") as stream:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise ValueError(f"{file} is no plain file")
        found = stream.read(most_bytes + 1)
    if len(found) > most_bytes:
        raise ValueError(f"{file} is larger than {most_bytes >> 20} MiB")
    return found


def text(file: Path) -> str:
    """A file's text, each line's end a newline. Raises as `data`, and ValueError where it is not UTF-8."""
    return data(file).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def json_object(file: Path) -> dict[str, Any]:
    """A file's JSON object; empty where there is no such file. Raises as `data`, and ValueError where it is none."""
    if not file.exists():
        return {}
    try:
        value = json.loads(data(file))
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deep") from error
    except ValueError as error:
        raise ValueError(str(error) if str(file) in str(error) else f"{file}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} is not a JSON object")
    return value
