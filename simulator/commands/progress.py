"""What a person sees while a command works, and what Ctrl-C does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SHOWN_AFTER = 2.0
"""What is quicker than that needs no bar [s]."""
INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended."""
_SHOW_CURSOR = b"\x1b[?25h"


class Interrupt:
    """Ctrl-C as a question: the first sets `asked`, the second ends the process at once. A context."""

    def __init__(self) -> None:
        self.asked = False
        self.heeded = False
        """Somebody was told to stop, and so did not end by itself."""
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def __call__(self) -> bool:
        """Whether the user asked to stop; who asks this stops."""
        self.heeded = self.asked
        return self.asked

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            _end_at_once()
        self.asked = True
        if sys.stderr.isatty():
            os.write(2, b"\nstopping; Ctrl-C again ends at once\n")


def _end_at_once() -> None:
    for child in multiprocessing.active_children():
        child.kill()
    if sys.stderr.isatty():
        os.write(2, _SHOW_CURSOR)
    os._exit(INTERRUPTED)


class Bar:
    """A bar with the time left, on stderr, only on a terminal, and only from two seconds on. A context."""

    def __init__(self, what: str, total: float | None, *, quiet: bool = False) -> None:
        """`total` of None: how much there is to do is not known; the bar says how much is done."""
        self._what = what
        self._total = total
        self._done = 0.0
        self._part = 0.0
        self._told = ""
        self._console = Console(stderr=True)
        self._wanted = self._console.is_terminal and not quiet
        self._begun = time.monotonic()
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def expect(self, more: float) -> None:
        """There is that much more to do than was known."""
        self._total = (self._total or 0.0) + more
        self._show()

    def at(self, done: float, told: str = "") -> None:
        """That much is done."""
        self._done = done
        self._part = 0.0
        self._told = told
        if self._total is not None and done > self._total:  # a closed loop: more follows from answers
            self._total = None
        self._show()

    def step(self, told: str = "") -> None:
        """One more is done."""
        self.at(self._done + 1.0, told)

    def part(self, more: float) -> None:
        """That much is under way beyond what is done."""
        self._part = more
        self._show()

    def _show(self) -> None:
        if not self._wanted:
            return
        if self._progress is None:
            if time.monotonic() - self._begun < SHOWN_AFTER:
                return
            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
                TimeRemainingColumn(), TextColumn("{task.fields[told]}"), console=self._console, transient=True,
            )  # fmt: skip
            self._progress.start()
            self._task = self._progress.add_task(self._what, total=self._total, told="")
        self._progress.update(self._task, total=self._total, completed=self._done + self._part, told=self._told)
