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
        keys, key_tokens = request.keys, self._key_tokens
        stretches = self._stretches
        known, count = 0, len(keys)
        head = length = 0
        while known < count:
            first = keys[known]
            held = stretches.get(first)
            if held is None:
                break
            head, length = first, held
            end = known + held
            if end > count:
                end = count
            if keys[end - 1] != first + end - 1 - known:
                end = _parting(keys, known, end)
            known = end
        reusable = (request.tokens - 1) // key_tokens
        if known < reusable:
            reusable = known
        if known < count:
            if keys[known] >= UNIQUE:
                return reusable * key_tokens
            head, length = self._enter(keys, known, head, length)
        if job.answer_keys and self._answers:
            self._answered(job.answer_keys, head, length, keys[-1] if keys else -1)
        return reusable * key_tokens

    def _answered(self, keys: Sequence[int], head: int, length: int, before: int) -> None:
        """Enter an answer's keys; `head` and `length` are of the stretch in which its prompt ends, with `before`."""
        first = keys[0]
        if first >= UNIQUE or before >= UNIQUE:
            return
        if isinstance(keys, range) and keys.step == 1 and first == head + length and before == first - 1:
            self._stretches[head] = length + len(keys)
            return
        known, count = 0, len(keys)
        inside = head <= before < head + length
        left = head + length - 1 - before if inside and first == before + 1 else 0
        if left > 0:  # its prompt ends within a stretch that goes on: it was answered before
            known = min(left, count)
            if keys[known - 1] != first + known - 1:
                known = _parting(keys, 0, known)
        while known < count:
            held = self._stretches.get(keys[known])
            if held is None:
                break
            head, length = keys[known], held
            end = min(known + held, count)
            if keys[end - 1] != head + end - 1 - known:
                end = _parting(keys, known, end)
            known = end
        if known < count:
            self._enter(keys, known, head, length, before)

    def _enter(self, keys: Sequence[int], known: int, head: int, length: int, before: int = -1) -> tuple[int, int]:
        """Enter the keys from `known` on, which are new; `head` and `length` are of the stretch in which the known ones
        end, `before` stands before the first of `keys`. Gives the stretch in which these end."""
        stretches = self._stretches
        count = len(keys)
        while known < count:
            first = keys[known]
            if first >= UNIQUE:
                break
            end = _consecutive(keys, known)
            parent = keys[known - 1] if known else before
            if length and first == head + length and parent == first - 1:
                length += end - known
            else:
                head, length = first, end - known
            stretches[head] = length
            known = end
        return head, length


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
    count, ahead = len(keys), keys[start] - start
    if keys[count - 1] == ahead + count - 1 and list(keys[start:]) == list(range(ahead + start, ahead + count)):
        return count
    end = start + 1
    while end < count and keys[end] == ahead + end:
        end += 1
    return end


def reusable_tokens(jobs: Iterable[Job], key_tokens: int, answers: bool = True) -> int:
    """Prompt tokens of all these jobs, in order of arrival, that an endless cache would have held."""
    bound = Bound(key_tokens, answers)
    return sum(bound.add(job) for job in jobs)
