"""What routers leave in the store ends by itself."""

from __future__ import annotations

from pathlib import Path

import redis

from tests.system.stage import Stage, staged, text, until

GRACE, KEEP = 60_000, 3_600_000
"""How long keys of replicas that left, and of others, live on at most [ms]."""


def lives(stage: Stage) -> dict[str, int]:
    """Key -> how long it lives on [ms]; -1: for ever."""
    with redis.Redis(port=stage.redis.port) as client:
        return {key.decode(): client.pttl(key) for key in client.scan_iter()}


def of(lives: dict[str, int], name: str) -> list[int]:
    """Those of one replica's keys."""
    return [life for key, life in lives.items() if f"{name}}}" in key]


async def test_no_key_lives_for_ever(folder: str, tmp_path: Path) -> None:
    """Not while routers run, not when they are killed; what was sent to a replica that has left ends soon."""
    listed = tmp_path / "backends"
    async with staged(1, folder) as stage, staged(2, folder, stage.redis) as more:
        stays, leaves = more.engines
        listed.write_text(f"{stays.url}\n{leaves.url}\n")
        router = await stage.router("--backends-file", str(listed), redis="keys")
        await until(lambda: count(stage, 3))
        for number in range(12):
            assert (await router.ask(text(f"prompt {number}", 100))).status == 200
        names = [f"127.0.0.1:{engine.port}" for engine in (*stage.engines, stays, leaves)]
        await until(lambda: kept(stage, names))
        assert all(0 < life <= KEEP for life in lives(stage).values()), lives(stage)
        listed.write_text(f"{stays.url}\n")
        await until(lambda: ends(stage, names[2]))
        router.kill()
        after = lives(stage)
        assert after
        assert all(0 < life <= KEEP for life in after.values()), after
        assert any(key.endswith("presence") for key in after)


async def count(stage: Stage, engines: int) -> bool:
    """Whether the store has something of so many replicas: all are known."""
    return len({key.partition("}")[0] for key in lives(stage) if "127.0.0.1" in key}) >= engines


async def kept(stage: Stage, names: list[str]) -> bool:
    """Whether something is told of each."""
    return all(len(of(lives(stage), name)) > 1 for name in names)


async def ends(stage: Stage, name: str) -> bool:
    """Whether nobody listens to this replica any more, and what was sent there and what it told ends soon."""
    left = {key.rpartition(":")[2]: life for key, life in lives(stage).items() if f"{name}}}" in key}
    return "ingest" not in left and all(life <= GRACE for life in left.values())
