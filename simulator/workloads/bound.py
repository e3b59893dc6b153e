"""The most that any routing could find in caches: what one endless cache would hold.

Keys are chained, so a prompt's known keys are its first ones, and a key is known where the one before it is known and
either goes on counting in the same stretch or begins another. It is enough to remember, for each stretch of consecutive
numbers, its first key and its length: generators and traces count their keys up, so that is an entry a prompt or less.
Keys that say themselves that they never come again (`UNIQUE`) are not remembered at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvroute.simulator.workloads.contract import Job
from kvroute.simulator.workloads.keys import UNIQUE


class Bound:
    """Told of jobs in order of arrival. What a job's answer adds counts as known from its arrival on."""

    __slots__ = ("_answers", "_key_tokens", "_stretches")

    def __init__(self, key_tokens: int, answers: bool = True) -> None:
        """`answers`: whether blocks that were generated are held too."""
        self._key_tokens = key_tokens
        self._answers = answers
        self._stretches: dict[int, int] = {}
        """First key of a stretch -> keys in it, each the parent of the one that is 1 more."""

    def __len__(self) -> int:
        """Stretches that are remembered."""
        return len(self._stretches)

    def add(self, job: Job) -> int:
        """Prompt tokens of this job that were known. As in the engine, the prompt's last token is computed always."""
        request = job.request
        keys: Sequence[int] = request.keys
        known, count = 0, len(keys)
        head = length = 0
        while known < count:
            first = keys[known]
            held = self._stretches.get(first)
            if held is None:
                break
            head, length = first, held
            end = min(known + held, count)
            if keys[end - 1] != first + end - 1 - known:
                end = _parting(keys, known, end)
            known = end
        reusable = min(known, (request.tokens - 1) // self._key_tokens)
        if job.answer_keys and self._answers:
            keys = [*keys, *job.answer_keys]
            count = len(keys)
        if known < count and keys[known] < UNIQUE:
            self._remember(keys, known, head, length)
        return reusable * self._key_tokens

    def _remember(self, keys: Sequence[int], known: int, head: int, length: int) -> None:
        """Enter the keys from `known` on; `head` and `length` are of the stretch in which the known ones end."""
        stretches = self._stretches
        count = len(keys)
        while known < count:
            first = keys[known]
            if first >= UNIQUE:
                return
            held = stretches.get(first)
            if held is None:
                end = _consecutive(keys, known)
                if length and first == head + length and keys[known - 1] == first - 1:
                    length += end - known
                else:
                    head, length = first, end - known
                stretches[head] = length
            else:  # an answer that was known: its prompt came before
                head, length = first, held
                end = min(known + held, count)
                if keys[end - 1] != first + end - 1 - known:
                    end = _parting(keys, known, end)
            known = end


def _parting(keys: Sequence[int], start: int, end: int) -> int:
    """Where keys leave the stretch that they follow at `start` and no longer follow before `end`."""
    first = keys[start] - start
    low, high = start + 1, end - 1
    while low < high:
        middle = (low + high) // 2
        if keys[middle] == first + middle:
            low = middle + 1
        else:
            high = middle
    return low


def _consecutive(keys: Sequence[int], start: int) -> int:
    """End of the stretch of consecutive keys at `start`."""
    count, first = len(keys), keys[start]
    if keys[count - 1] - first == count - 1 - start and list(keys[start:]) == list(range(first, first + count - start)):
        return count
    end = start + 1
    while end < count and keys[end] - first == end - start:
        end += 1
    return end


def reusable_tokens(jobs: Iterable[Job], key_tokens: int, answers: bool = True) -> int:
    """Prompt tokens of all these jobs, in order of arrival, that an endless cache would have held."""
    bound = Bound(key_tokens, answers)
    return sum(bound.add(job) for job in jobs)
