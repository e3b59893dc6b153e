"""`kvroute demo`, whole but short."""

from __future__ import annotations

import io

from rich.console import Console

from kvroute.router.demo import Row, run_demo, table
from kvroute.router.testing.chatload import ChatResult, ChatShape


async def test_drives_chats_through_the_router() -> None:
    """Stand-ins and router come up, chats are answered without a failure, and the table tells each policy's figures."""
    console = Console(file=io.StringIO(), width=100)
    shape = ChatShape(users=4, turns=4, system_words=40, question_words=40, answer_tokens=4, think_seconds=0.05)
    (row,) = await run_demo(console, ("latency",), 2.0, shape)
    assert row.policy == "latency"
    assert row.result.failures == 0
    assert row.result.turns
    assert 0 < row.cached_rate < 1
    console.print(table([row]))
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert "latency" in written
    assert "cached tokens" in written


def test_the_table_survives_a_run_without_answers() -> None:
    """No answers give a table all the same."""
    console = Console(file=io.StringIO(), width=100)
    console.print(table([Row("random", ChatResult(), 0.0, 0.0)]))
    assert isinstance(console.file, io.StringIO)
    assert "0 %" in console.file.getvalue()
