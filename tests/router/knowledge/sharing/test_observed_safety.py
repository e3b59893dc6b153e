"""The observed log's safety: writers paused, killed and resumed at every step, a store that loses what it likes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.router.knowledge.sharing.schedule import Fault, World

ROUTERS = 3
STEPS = st.lists(
    st.tuples(st.integers(0, 99), st.integers(0, ROUTERS - 1), st.integers(0, 9)), min_size=20, max_size=150
)
FAULTS: list[Fault] = ["ok", "ok", "ok", "ok", "ok", "ok", "unsent", "unanswered", "late", "ok"]


def play(world: World, steps: list[tuple[int, int, int]], *, harm: bool) -> None:
    """Carry the steps out, one by one; after each, every router's knowledge is exact as far as it goes."""
    for kind, which, value in steps:
        router = world.routers[which]
        if kind < 12:
            router.move(FAULTS[value])
        elif kind < 25:
            for _ in range(2 * value):
                router.move("ok")
        elif kind < 35:
            world.engine.emit(value)
            router.ingest(world.engine, value)
        elif kind < 40:
            router.ingest(world.engine, value)
        elif kind < 65:
            if value < 7:
                world.finish(router)
            router.begin(router.flush())
            if value < 5:
                world.finish(router)
        elif kind < 75:
            router.begin(router.follow())
            if value < 5:
                world.finish(router)
        elif kind < 80:
            router.begin(router.win())
            if value < 7:
                world.finish(router)
        elif kind < 84:
            router.begin(router.check())
        elif kind < 87:
            router.begin(router.inspect())
        elif kind < 88:
            router.stop()
        elif kind < 89:
            world.kill(which)
        elif kind < 92:
            world.now += value / 4
        elif kind < 95:
            world.arrive()
        elif harm:
            harmful(world, kind, value)
        world.hold()


def harmful(world: World, kind: int, value: int) -> None:
    """What a store may do to its data."""
    if kind == 95:
        world.server.flush()
    elif kind == 96:
        world.evict(value)
    elif kind == 97:
        world.save()
    elif kind == 98:
        world.restore()
    else:
        world.now -= 50.0  # a clock that is set back


@settings(max_examples=70, deadline=None)
@given(STEPS)
def test_writers_at_every_step(steps: list[tuple[int, int, int]]) -> None:
    """Whatever is paused, lost, late or taken over, no router's row differs from the events that it stands for, and
    once all is well everyone knows everything."""
    world = World(ROUTERS)
    play(world, steps, harm=False)
    world.settle()
    world.hold()
    for router in world.routers:
        assert router.follower.progress.next == len(world.engine.batches)


@settings(max_examples=70, deadline=None)
@given(STEPS)
def test_a_store_that_forgets(steps: list[tuple[int, int, int]]) -> None:
    """The same with a store that is flushed, evicts keys, comes back with an old copy, or sets its clock back."""
    world = World(ROUTERS)
    play(world, steps, harm=True)
    world.settle()
    world.hold()
    for router in world.routers:
        assert router.follower.progress.next == len(world.engine.batches)
