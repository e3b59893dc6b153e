"""Many runs on all cores: answers in the order asked, whatever the number of processes."""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeAlias

from kvroute.scorers.errors import PluginError
from kvroute.simulator.errors import SimulatorError
from kvroute.simulator.reports.html.run import Detail
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.search.case import Case, run_case

Done: TypeAlias = Callable[[Case, Summary, Detail | None], None]
"""Told of each run as it ends, in whatever order they end."""
Wanted: TypeAlias = Callable[[Case], bool]
"""Whether a page will show that run in detail."""

UnderWay: TypeAlias = Callable[[float], None]
"""Told how much is done of the runs that have not ended [runs]."""
Answer: TypeAlias = tuple[Summary, Detail | None]

SLOTS = 4096
"""Of the memory in which processes tell how far they are; more runs than that share some."""
_LOOK_SECONDS = 0.2
"""How often the parent looks whether it was asked to stop."""


class Stopped(Exception):
    """The user asked to stop; what was done by then was told through `Done`."""


class RunError(SimulatorError):
    """One of many runs failed; the message names it."""


class Runs:
    """Makes runs, on `jobs` processes where that is more than one. `close` must be called at the end.

    `stopping` is asked now and then; when it says so, runs under way are dropped and `Stopped` is raised.
    """

    def __init__(
        self, jobs: int, done: Done, under_way: UnderWay, stopping: Callable[[], bool], detailed: Wanted
    ) -> None:
        self._jobs = jobs
        self._done = done
        self._under_way = under_way
        self._stopping = stopping
        self._detailed = detailed
        self._pool: ProcessPoolExecutor | None = None
        self._stop: Any = None
        self._shares: Any = None

    def close(self) -> None:
        """End the other processes; what they are at is dropped."""
        if self._pool is not None:
            self._stop.value = 1
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __call__(self, cases: Sequence[Case]) -> list[Summary]:
        """Make these runs; the answers stand in their order.

        Raises:
            Stopped: the user asked to.
            RunError: a run failed, or a process died; names the run.
        """
        if self._jobs == 1:
            return [self._here(case) for case in cases]
        return self._everywhere(cases)

    def _here(self, case: Case) -> Summary:
        try:
            summary, detail = run_in_detail(case, self._under_way, self._stopping, self._detailed(case))
        except (SimulatorError, PluginError) as error:
            raise RunError(f"{case.label}: {error}") from error
        if self._stopping():
            raise Stopped
        self._done(case, summary, detail)
        return summary

    def _everywhere(self, cases: Sequence[Case]) -> list[Summary]:
        pool = self._started()
        waiting: dict[Future[Answer], Case] = {}
        futures = []
        with _deaf_children():
            for number, case in enumerate(cases):
                future = pool.submit(_run, case, number % SLOTS, self._detailed(case))
                waiting[future] = case
                futures.append(future)
        pending = set(waiting)
        while pending:
            ended, pending = concurrent.futures.wait(
                pending, timeout=_LOOK_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in sorted(ended, key=futures.index):
                if self._stopping():
                    break
                self._done(waiting[future], *_answer(future, waiting[future]))
            if self._stopping():
                raise Stopped
            self._under_way(math.fsum(self._shares))
        return [future.result()[0] for future in futures]

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._stop = context.Value("b", 0, lock=False)
            self._shares = context.Array("d", SLOTS, lock=False)
            given = self._stop, self._shares
            self._pool = ProcessPoolExecutor(self._jobs, context, initializer=_begin, initargs=given)
        return self._pool


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started meanwhile never hear Ctrl-C, which is the parent's to handle; here it is heard at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_in_detail(case: Case, under_way: UnderWay, stop: Callable[[], bool], detailed: bool) -> Answer:
    """Make one run; with what plots show of it, where a page will."""
    expected = case.source.expected() or math.inf
    outcome, summary = run_case(case, lambda done, now: under_way(min(done / expected, 1.0)), stop)
    return summary, Detail.of(outcome, case.scenario) if detailed else None


def _answer(future: Future[Answer], case: Case) -> Answer:
    try:
        return future.result()
    except (SimulatorError, PluginError) as error:
        raise RunError(f"{case.label}: {error}") from error
    except BrokenProcessPool as error:
        raise RunError(
            f"{case.label}: a process died (out of memory?); try fewer at once with --jobs, or fewer --requests"
        ) from error
    except Exception as error:  # a fault of ours: its traceback names the run as well
        error.add_note(f"in the run {case.label}")
        raise


# --- in the other process ---

_stop: Any = None
_shares: Any = None


def _begin(stop: Any, shares: Any) -> None:
    """A process whose parent is gone goes too."""
    global _stop, _shares
    _stop, _shares = stop, shares
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _run(case: Case, slot: int, detailed: bool) -> Answer:
    def under_way(share: float) -> None:
        _shares[slot] = share

    try:
        return run_in_detail(case, under_way, lambda: bool(_stop.value), detailed)
    finally:
        under_way(0.0)
