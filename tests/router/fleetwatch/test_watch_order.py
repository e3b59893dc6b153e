"""Whatever an engine does, what the listener is told makes sense."""

from __future__ import annotations

import asyncio
import random
import re

import pytest

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.fleetwatch.backend import Backend
from kvroute.router.fleetwatch.breaker import Limits
from kvroute.router.fleetwatch.engine_client import EngineClient, Unreachable
from kvroute.router.fleetwatch.health import HealthSettings
from kvroute.router.fleetwatch.scrape import ScrapeSettings
from kvroute.router.fleetwatch.watch import Watch, WatchSettings
from tests.router.fleetwatch.fakes import FakeEngine, Journal

SETTINGS = WatchSettings(
    health=HealthSettings(interval=0.002, limits=Limits(base=0.001, cap=0.004, starting_cap=0.002, probation=0.01)),
    scrape=ScrapeSettings(interval=0.002, slowest=0.004),
    discover_every=0.003,
    discover_retry=0.001,
)
ORDER = re.compile(r"(joined (ejected recovered )*(ejected )?gone )*(joined (ejected recovered )*(ejected )?)?")
ENDPOINT = Endpoint("h", 1)


class MoodyClient(EngineClient):
    """Answers for an engine whose mood changes, without a socket."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self._page = FakeEngine()
        self.mood = "well"

    async def get(self, endpoint: Endpoint, path: str, timeout: float) -> tuple[int, bytes]:  # noqa: ASYNC109
        await asyncio.sleep(self._rng.choice((0.0, 0.0005)))
        if self.mood == "refuses":
            self._page.prompt_tokens = 0.0
            raise Unreachable("cannot connect", refused=True)
        if self.mood == "slow":
            raise Unreachable("no answer")
        if path == "/health":
            return (503 if self.mood == "dead" else 200), b""
        if path == "/v1/models":
            return (500, b"") if self.mood == "modelless" else (200, b'{"data":[{"id":"m"}]}')
        self._page.prompt_tokens += 1.0
        return 200, self._page.page().encode()


@pytest.mark.parametrize("seed", range(5))
async def test_the_order_always_holds(seed: int) -> None:
    """Joined first, ejected and recovered in turn, gone last; and at the end what is told is true."""
    rng = random.Random(seed)
    client = MoodyClient(rng)
    journal = Journal()
    watch = Watch(client, journal, SETTINGS, rng=rng)
    listed = [Backend(ENDPOINT)]
    watch.set_backends(listed)
    for _ in range(100):
        client.mood = rng.choice(("well", "well", "refuses", "slow", "dead", "modelless"))
        act = rng.random()
        if act < 0.3:
            watch.report_failure(ENDPOINT, asyncio.get_running_loop().time())
        elif act < 0.5:
            watch.suspect(ENDPOINT)
        elif act < 0.6:
            listed = [] if listed else [Backend(ENDPOINT)]
            watch.set_backends(listed)
        await asyncio.sleep(rng.choice((0.0, 0.001, 0.003)))
    told = [event for event in journal.events() if event in ("joined", "ejected", "recovered", "gone")]
    assert ORDER.fullmatch("".join(f"{event} " for event in told)), told
    client.mood = "well"
    watch.set_backends([Backend(ENDPOINT)])
    await journal.until(lambda: not watch.missing())
    told = [event for event in journal.events() if event in ("joined", "ejected", "recovered", "gone")]
    assert told[-1] in ("joined", "recovered")
    await watch.close()
