"""The workload's own bound."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.scorers.contract import Request
from kvroute.simulator.workloads.bound import Bound, reusable_tokens
from kvroute.simulator.workloads.contract import Job
from kvroute.simulator.workloads.keys import UNIQUE
from kvroute.simulator.workloads.naming import GENERATORS
from tests.simulator.workloads.walked import assert_chained, jobs_of

KEY = 16


def job(keys: Sequence[int], tokens: int | None = None, answer: Sequence[int] = ()) -> Job:
    """A prompt of these keys, and half a block more unless told."""
    length = len(keys) * KEY + KEY // 2 if tokens is None else tokens
    return Job(0.0, Request("r", "m", length, list(keys), KEY), KEY, answer)


def naive(jobs: Sequence[Job], answers: bool = True) -> list[int]:
    """The definition: a set of all keys."""
    seen: set[int] = set()
    found = []
    for one in jobs:
        known = 0
        while known < len(one.request.keys) and one.request.keys[known] in seen:
            known += 1
        seen.update(one.request.keys, one.answer_keys if answers else ())
        found.append(min(known, (one.request.tokens - 1) // KEY) * KEY)
    return found


def test_the_last_token_is_always_computed() -> None:
    """As in the engine: a prompt that is known to its end still computes its last block."""
    bound = Bound(KEY)
    assert bound.add(job([1, 2], 2 * KEY)) == 0
    assert bound.add(job([1, 2], 2 * KEY)) == KEY
    assert bound.add(job([1, 2], 2 * KEY + 1)) == 2 * KEY


def test_answers_are_held_too() -> None:
    """Unless they are not to be."""
    jobs = [job([1], answer=[2, 3]), job([1, 2, 3, 4])]
    assert reusable_tokens(jobs, KEY) == 3 * KEY
    assert reusable_tokens(jobs, KEY, answers=False) == KEY


@st.composite
def workloads(draw: st.DrawFn) -> list[Job]:
    """Prompts over a random tree of keys: each new key counts up from the last new one, or is anywhere, or unique."""
    children: dict[int, list[int]] = {}
    last, used, jobs = 0, set[int](), []
    for _ in range(draw(st.integers(1, 12))):
        path: list[int] = []
        node = 0
        for _ in range(draw(st.integers(0, 8))):
            known = children.setdefault(node, [])
            pick = draw(st.integers(0, len(known) + 3))
            if pick < len(known):
                node = known[pick]
            elif node >= UNIQUE or pick == len(known) + 3:
                node = UNIQUE + len(used)
                used.add(node)
            else:
                step = 1 if pick == len(known) else draw(st.integers(-20, 20))
                last = max(1, last + step)
                while last in used:
                    last += 1
                used.add(last)
                known.append(last)
                node = last
            path.append(node)
        cut = draw(st.integers(0, len(path)))
        jobs.append(job(path[:cut], answer=path[cut:]))
    return jobs


@given(workloads(), st.booleans())
def test_stretches_say_what_a_set_of_all_keys_says(jobs: list[Job], answers: bool) -> None:
    """Remembering stretches of consecutive keys alone loses nothing, for keys are chained."""
    assert_chained([msgspec.structs.replace(one, request=msgspec.structs.replace(one.request, id=str(number)))
                    for number, one in enumerate(jobs)])  # fmt: skip
    bound = Bound(KEY, answers)
    assert [bound.add(one) for one in jobs] == naive(jobs, answers)


@pytest.mark.parametrize("spec", sorted(GENERATORS))
def test_every_generator_is_bounded_as_a_set_would(spec: str) -> None:
    """With answers and without."""
    jobs = jobs_of(f"{spec},key={KEY}", requests=400)
    for answers in (True, False):
        assert reusable_tokens(jobs, KEY, answers) == sum(naive(jobs, answers))


def test_keys_that_never_come_again_take_no_room() -> None:
    """A prompt of a shared prefix leaves nothing behind but the prefix."""
    bound = Bound(64)
    for one in jobs_of("shared-prefix,prefixes=3", requests=500):
        bound.add(one)
    assert len(bound) == 3
