"""The many runs of one command: on all cores, with a bar, until Ctrl-C; everything that was made is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from kvroute.simulator.commands.options import jobs_or_cores
from kvroute.simulator.commands.processes import Runs, Stopped
from kvroute.simulator.commands.progress import INTERRUPTED, Bar, Interrupt
from kvroute.simulator.reports.html.run import Detail
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.search.case import Case


class Made(NamedTuple):
    """One run that was made."""

    case: Case
    summary: Summary
    detail: Detail | None
    """What plots show of it; None where no page will."""


class Work:
    """Makes runs when called with cases. A context: Ctrl-C ends its body early, and `stopped` says so."""

    def __init__(self, what: str, options: Mapping[str, Any], detailed: Callable[[Case], bool] | None = None) -> None:
        """Of `options`: quiet, jobs, html_path and seed. `detailed`: what a page may show; None: the first seed's."""
        self.stopped = False
        self._made: dict[str, Made] = {}
        self._interrupt = Interrupt()
        self._bar = Bar(what, None, quiet=options["quiet"])
        seed = options["seed"]
        wanted = detailed or (lambda case: case.scenario.seed == seed)
        paged = options["html_path"] is not None
        self._runs = Runs(
            jobs_or_cores(options["jobs"]),
            self._done,
            self._bar.part,
            self._interrupt,
            lambda case: paged and wanted(case),
        )

    def __enter__(self) -> Work:
        self._interrupt.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            self._runs.close()
        finally:
            self._bar.__exit__(kind, error, trace)
            self._interrupt.__exit__(kind, error, trace)
        self.stopped = isinstance(error, Stopped)
        return self.stopped

    def __call__(self, cases: Sequence[Case]) -> list[Summary]:
        """Make these runs; the answers stand in their order.

        Raises:
            Stopped: the user asked to; leave the context with it.
            RunError: a run failed; names it.
        """
        self._bar.expect(len(cases))
        return self._runs(cases)

    def _done(self, case: Case, summary: Summary, detail: Detail | None) -> None:
        self._made[case.label] = Made(case, summary, detail)
        self._bar.step(case.label)

    def made(self) -> list[Made]:
        """All runs so far, by their labels: in the same order however many processes made them."""
        return [self._made[label] for label in sorted(self._made)]

    def summaries(self) -> dict[str, Summary]:
        """Their figures, by the cases' labels."""
        return {made.case.label: made.summary for made in self.made()}

    def find(self, label: str) -> Made | None:
        """The first run with details whose label begins so."""
        return next((one for one in self.made() if one.detail and one.case.label.startswith(label)), None)

    def end(self) -> None:
        """End the command as Ctrl-C ends commands, where it was stopped."""
        if self.stopped:
            sys.exit(INTERRUPTED)
