"""Log lines and repetition."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest

from kvroute.router.control.logs import SeldomLog, log_request, set_up_logs
from kvroute.router.errors import ConfigError


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    """The root logger is as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_lines() -> None:
    """One object a line: time, level, logger, message, the record's own fields, an exception's text."""
    stream = io.StringIO()
    set_up_logs("info", "json", stream)
    log_request({"id": "r1", "seconds": 0.25, "message": "cannot replace the message"})
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("kvroute.x").exception("failed\nbadly")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("info", "kvroute.request", "request")
    assert (first["id"], first["seconds"]) == ("r1", 0.25)
    assert first["time"].endswith("Z")
    assert second["message"] == "failed\nbadly"
    assert "ValueError: no" in second["exception"]


@pytest.mark.parametrize("style", ["text", "json"])
def test_lone_surrogates_are_escaped(style: Literal["text", "json"]) -> None:
    """A JSON body may name a model that no encoding can write."""
    stream = io.StringIO()
    set_up_logs("info", style, stream)
    log_request({"model": "\ud800"})
    assert "\\ud800" in stream.getvalue()


def test_text_lines_cannot_be_forged() -> None:
    """A client's line feed stays inside its line."""
    stream = io.StringIO()
    set_up_logs("info", "text", stream)
    logging.getLogger("kvroute.x").warning("model %s", "m\n2026 INFO all is well")
    log_request({"model": "a b\n", "seconds": 0.25})
    first, second = stream.getvalue().splitlines()
    assert first.endswith("WARNING kvroute.x model m\\n2026 INFO all is well")
    assert second.endswith('INFO kvroute.request request model="a b\\n" seconds=0.25')


def test_lines_of_one_of_several_workers_say_which() -> None:
    """In both formats, beside the record's own fields."""
    text, lines = io.StringIO(), io.StringIO()
    set_up_logs("info", "text", text, worker=0)
    log_request({"id": "r1"})
    set_up_logs("info", "json", lines, worker=2)
    log_request({"id": "r1"})
    logging.getLogger("kvroute.x").warning("no fields")
    assert text.getvalue().endswith(" kvroute.request request worker=0 id=r1\n")
    assert [json.loads(line)["worker"] for line in lines.getvalue().splitlines()] == [2, 2]


def test_the_level_is_kept_and_checked() -> None:
    """Below the level nothing is written; a wrong setting is named."""
    stream = io.StringIO()
    set_up_logs("warning", "text", stream)
    logging.getLogger("kvroute.x").info("quiet")
    assert stream.getvalue() == ""
    with pytest.raises(ConfigError, match="log-level: 'loud'"):
        set_up_logs("loud")
    with pytest.raises(ConfigError, match="log-format"):
        set_up_logs("info", "xml")  # type: ignore[arg-type]


def test_a_key_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Other keys are not held back, and what was kept silent is counted."""
    now = 0.0
    seldom = SeldomLog(logging.getLogger("kvroute.x"), 60.0, lambda: now)
    for _ in range(3):
        seldom.warning("plugin a", "%s failed", "a")
    seldom.error("plugin b", "b failed")
    now = 60.0
    seldom.warning("plugin a", "%s failed", "a")
    assert [record.getMessage() for record in caplog.records] == [
        "a failed",
        "b failed",
        "a failed (and 2 times since the last such line)",
    ]


def test_keys_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Ever-new keys do not fill the memory."""
    seldom = SeldomLog(logging.getLogger("kvroute.x"), 60.0, lambda: 0.0)
    for number in range(5000):
        seldom.log(logging.DEBUG, f"key {number}", "x")
    assert len(seldom._seen) <= 1024
