"""Reading many sockets in turns of bounded length, with a clock in the test's hands."""

from __future__ import annotations

import asyncio

import pytest
import zmq

from kvroute.router.knowledge.events.intake import Intake


class Pile:
    """A reader with so many messages; each takes one tick of the clock. -1: it never ends."""

    def __init__(self, messages: int) -> None:
        self.left = messages
        self.read = 0

    def read_one(self) -> bool:
        """Take one."""
        if not self.left:
            return False
        self.left -= 1
        self.read += 1
        return True


@pytest.fixture
async def intake() -> Intake:
    ticks = iter(range(10**9))
    return Intake(asyncio.get_running_loop(), turn_seconds=100.0, clock=lambda: float(next(ticks)))


async def test_what_fits_is_read_in_one_turn(intake: Intake) -> None:
    """Fewer messages than the time allows: all of them, once."""
    pile = Pile(20)
    intake.look(pile)
    intake.look(pile)
    await asyncio.sleep(0)
    assert (pile.left, intake.handled, intake.cut_short) == (0, 20, 0)


async def test_a_turn_ends_when_its_time_is_up_and_the_next_goes_on(intake: Intake) -> None:
    """An endless sender gets one turn after the other, and the loop is free in between."""
    pile = Pile(-1)
    intake.look(pile)
    for turn in range(1, 4):
        await asyncio.sleep(0)
        assert pile.read == turn * 100
    assert intake.cut_short == 3


async def test_the_time_is_shared(intake: Intake) -> None:
    """Three floods at once: together no more than one turn's time, and none waits for another's end."""
    piles = [Pile(-1) for _ in range(3)]
    for pile in piles:
        intake.look(pile)
    await asyncio.sleep(0)
    assert sum(pile.read for pile in piles) == 100
    assert min(pile.read for pile in piles) >= 30
    for _ in range(9):
        await asyncio.sleep(0)
    assert sum(pile.read for pile in piles) == 1000
    assert min(pile.read for pile in piles) >= 300


async def test_a_reader_that_fails_does_not_stop_the_others(intake: Intake) -> None:
    """The error is the loop's to report; reading goes on."""

    class Failing(Pile):
        def read_one(self) -> bool:
            if super().read_one():
                raise ValueError("broken")
            return False

    reported: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(str(context["exception"])))
    failing, pile = Failing(1), Pile(5)
    intake.look(failing)
    intake.look(pile)
    for _ in range(3):
        await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert pile.left == 0
    assert "broken" in reported


async def test_a_removed_socket_is_read_no_more(intake: Intake) -> None:
    """Not even where it stood in line."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket, pile = context.socket(zmq.PULL), Pile(-1)
    intake.add(socket, pile)
    await asyncio.sleep(0)
    assert pile.read == 100
    intake.remove(socket, pile)
    await asyncio.sleep(0)
    assert pile.read == 100
    context.destroy(linger=0)
