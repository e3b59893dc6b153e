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
from types import TracebackType
from typing import Any, TypeAlias

from kvroute.scorers.errors import PluginError
from kvroute.simulator.errors import SimulatorError
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.search.case import Case, run_case

Done: TypeAlias = Callable[[Case, Summary], None]
"""Told of each run as it ends, in whatever order they end."""

_LOOK_SECONDS = 0.2
"""How often the parent looks whether it was asked to stop."""


class Stopped(Exception):
    """The user asked to stop; what was done by then was told through `Done`."""


class RunError(SimulatorError):
    """One of many runs failed; the message names it."""


class Runs:
    """Makes runs, on `jobs` processes where that is more than one. A context: leaving it ends the processes.

    `stopping` is asked now and then; when it says so, runs under way are dropped and `Stopped` is raised.
    """

    def __init__(self, jobs: int, done: Done, stopping: Callable[[], bool]) -> None:
        self._jobs = jobs
        self._done = done
        self._stopping = stopping
        self._pool: ProcessPoolExecutor | None = None
        self._stop: Any = None

    def __enter__(self) -> Runs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
            _, summary = run_case(case, stop=self._stopping)
        except (SimulatorError, PluginError) as error:
            raise RunError(f"{case.label}: {error}") from error
        if self._stopping():
            raise Stopped
        self._done(case, summary)
        return summary

    def _everywhere(self, cases: Sequence[Case]) -> list[Summary]:
        pool = self._started()
        waiting: dict[Future[Summary], Case] = {}
        futures = []
        for case in cases:
            future = pool.submit(_run, case)
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
                self._done(waiting[future], _answer(future, waiting[future]))
            if self._stopping():
                raise Stopped
        return [future.result() for future in futures]

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._stop = context.Value("b", 0, lock=False)
            self._pool = ProcessPoolExecutor(self._jobs, context, initializer=_begin, initargs=(self._stop,))
        return self._pool


def _answer(future: Future[Summary], case: Case) -> Summary:
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


def _run(case: Case) -> Summary:
    return run_case(case, stop=lambda: bool(_stop.value))[1]
