"""Structured logs on the standard library's logging: text or JSON lines, and a logger that repeats itself seldom."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TextIO

import orjson

from kvroute.router.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")
REQUEST_LOG = "kvroute.request"
"""The logger that gets one line per request, where that is asked for."""

_FORGET_ABOVE = 1024


def set_up_logs(
    level: str = "info",
    style: Literal["text", "json"] = "text",
    stream: TextIO | None = None,
    *,
    worker: int | None = None,
) -> None:
    """Send the log of `kvroute` and of what it uses to `stream` (default stderr); calling again replaces the set-up.

    Each line of one of several workers tells which one it is.

    Raises:
        ConfigError: `level` or `style` is not known.
    """
    if level.lower() not in LEVELS:
        raise ConfigError(f"log-level: {level!r} is not known; use one of {', '.join(LEVELS)}")
    if style not in ("text", "json"):
        raise ConfigError(f"log-format: {style!r} is not known; use text or json")
    handler = logging.StreamHandler(stream or sys.stderr)
    always: Mapping[str, Any] = {} if worker is None else {"worker": worker}
    handler.setFormatter(JsonLines(always) if style == "json" else TextLines(always))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # Their info lines tell of each connection and each admin request.
    for name in ("aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def log_request(fields: Mapping[str, Any]) -> None:
    """One line for one request, e.g. id, model, replica, status, seconds."""
    logging.getLogger(REQUEST_LOG).info("request", extra={"fields": fields})


class Lines(logging.Formatter):
    """One record as one line."""

    def __init__(self, always: Mapping[str, Any] = MappingProxyType({})) -> None:
        """`always` stands among the fields of every line."""
        super().__init__()
        self._always = always

    def fields(self, record: logging.LogRecord) -> Mapping[str, Any]:
        """The record's own fields, behind those of every line."""
        own: Mapping[str, Any] = getattr(record, "fields", {})
        return {**self._always, **own} if self._always else own


class TextLines(Lines):
    """`2026-01-31T12:00:00.123Z WARNING kvroute.x message key=value`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={_plain(value)}" for key, value in self.fields(record).items())
        # A line feed in a message would let a client forge log lines.
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{_stamp(record)} {record.levelname} {record.name} {message}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(Lines):
    """One JSON object a line: time, level, logger, message, then the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in self.fields(record).items():
            line.setdefault(key, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # lone surrogates, which JSON bodies may carry
            return json.dumps(line, default=str)


class SeldomLog:
    """Logs each key at most once per `every` seconds, and says how often it kept silent in between."""

    def __init__(
        self, logger: logging.Logger, every: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._every = every
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}

    def warning(self, key: str, message: str, *args: object) -> None:
        self.log(logging.WARNING, key, message, *args)

    def error(self, key: str, message: str, *args: object) -> None:
        self.log(logging.ERROR, key, message, *args)

    def log(self, level: int, key: str, message: str, *args: object) -> None:
        now = self._clock()
        last, silent = self._seen.get(key, (float("-inf"), 0))
        if now - last < self._every:
            self._seen[key] = (last, silent + 1)
            return
        if len(self._seen) >= _FORGET_ABOVE:
            self._seen = {name: entry for name, entry in self._seen.items() if now - entry[0] < self._every}
            if len(self._seen) >= _FORGET_ABOVE:
                self._seen.clear()
        self._seen[key] = (now, 0)
        if silent:
            message, args = message + " (and %d times since the last such line)", (*args, silent)
        self._logger.log(level, message, *args)


def _stamp(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if text and all(character.isprintable() and character not in ' "=' for character in text):
        return text
    return json.dumps(text)
