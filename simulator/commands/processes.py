"""Many runs on all cores: answers in the order asked, whatever the number of processes."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
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

Answer: TypeAlias = tuple[Summary, Detail | None]

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

    def __init__(self, jobs: int, done: Done, stopping: Callable[[], bool], detailed: Wanted) -> None:
        self._jobs = jobs
        self._done = done
        self._stopping = stopping
        self._detailed = detailed
        self._pool: ProcessPoolExecutor | None = None
        self._stop: Any = None

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
            summary, detail = run_in_detail(case, self._stopping, self._detailed(case))
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
        for case in cases:
            future = pool.submit(_run, case, self._detailed(case))
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
        return [future.result()[0] for future in futures]

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._stop = context.Value("b", 0, lock=False)
            self._pool = ProcessPoolExecutor(self._jobs, context, initializer=_begin, initargs=(self._stop,))
        return self._pool


def run_in_detail(case: Case, stop: Callable[[], bool], detailed: bool) -> Answer:
    """Make one run; with what plots show of it, where a page will."""
    outcome, summary = run_case(case, stop=stop)
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


# --- in the other process ---

_stop: Any = None


def _begin(stop: Any) -> None:
    """Ctrl-C is the parent's to handle; a process whose parent is gone goes too."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _run(case: Case, detailed: bool) -> Answer:
    return run_in_detail(case, lambda: bool(_stop.value), detailed)
