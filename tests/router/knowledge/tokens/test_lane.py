"""Threads that serve jobs in turn, tell how long one would wait, and hold nobody up when they are stuck."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator

import pytest

from kvroute.router.knowledge.tokens.lane import BACKGROUND_SECONDS, PATIENCE, SLACK, Lane

RATE = 1000.0


@pytest.fixture
def lane() -> Iterator[Lane]:
    """Two threads, of known speed."""
    made = Lane("lane", 2)
    made.rate = RATE
    yield made
    made.close()


class Gate(threading.Event):
    """Jobs wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._reached = threading.Semaphore(0)

    def job(self) -> None:
        self._reached.release()
        assert self.wait(30)

    async def reached(self, jobs: int) -> None:
        """Until so many more threads wait."""
        for _ in range(jobs):
            assert await asyncio.to_thread(self._reached.acquire, timeout=10)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Open in the end."""
    made = Gate()
    yield made
    made.set()


async def test_results_and_faults_reach_who_waits(lane: Lane) -> None:
    """And what is done is counted out."""
    fine = lane.put(lambda: 7, 10, 0)
    broken = lane.put(lambda: 1 // 0, 10, 0)
    assert lane.ahead == 20
    assert await fine.future == 7
    with pytest.raises(ZeroDivisionError):
        await broken.future
    assert lane.ahead == 0


async def test_waits_are_predicted(lane: Lane, gate: Gate) -> None:
    """By what stands before, over all threads, and the job itself on one."""
    assert lane.predicted(500, time.monotonic()) == 500 / RATE
    for _ in range(2):
        lane.put(gate.job, 1000, 0)
    assert lane.predicted(500, time.monotonic()) == pytest.approx((2000 / 2 + 500) / RATE)


async def test_stuck_threads_are_counted_out(lane: Lane, gate: Gate) -> None:
    """One that is overdue leaves the others; where all are, nothing would ever be done."""
    lane.put(gate.job, 1000, 0)
    await gate.reached(1)
    late = time.monotonic() + PATIENCE * 1000 / RATE + SLACK
    assert lane.predicted(500, late) == pytest.approx(500 / RATE)
    lane.put(gate.job, 1000, 0)
    await gate.reached(1)
    late = time.monotonic() + PATIENCE * 1000 / RATE + SLACK
    assert lane.predicted(500, late) == math.inf


async def test_what_nobody_waits_for_is_done_last_and_bounded(gate: Gate) -> None:
    """It stands behind all that somebody waits for, and is not counted there until a thread is at it."""
    lane = Lane("lane", 1)
    lane.rate = RATE
    order: list[str] = []
    lane.put(gate.job, 10, 0)
    await gate.reached(1)
    last = lane.put(lambda: order.append("background"), 700, 0, background=True)
    first = lane.put(lambda: order.append("waited for"), 700, 0)
    assert (lane.ahead, lane.behind) == (710, 700)
    assert lane.has_room_behind(int(RATE * BACKGROUND_SECONDS) - 700)
    assert not lane.has_room_behind(int(RATE * BACKGROUND_SECONDS) - 699)
    gate.set()
    await asyncio.gather(first.future, last.future)
    assert order == ["waited for", "background"]
    lane.close()


async def test_the_speed_is_learned(lane: Lane) -> None:
    """By the clock on the wall, of jobs that are long enough to tell."""
    await lane.put(lambda: None, 10, 0).future
    assert lane.rate == RATE
    for _ in range(20):
        await lane.put(lambda: None, 1_000_000, 0).future
    assert lane.rate > 100 * RATE


async def test_the_end_waits_for_no_thread(gate: Gate) -> None:
    """What has not begun is dropped, and a stuck thread is a daemon that the process leaves behind."""
    lane = Lane("ending", 1)
    stuck, waiting = lane.put(gate.job, 10, 0), lane.put(lambda: 1, 10, 0)
    await gate.reached(1)
    lane.close()
    assert stuck.future.cancelled()
    assert waiting.future.cancelled()
    mine = [thread for thread in threading.enumerate() if thread.name.startswith("ending")]
    assert mine
    assert all(thread.daemon for thread in mine)
    gate.set()
    for thread in mine:
        thread.join(10)
        assert not thread.is_alive()
