"""A file that lines are appended to: whole batches or nothing, and begun anew when it was moved away or cut. Blocks."""

from __future__ import annotations

import os
import stat


class Appended:
    """Call it from one thread at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = -1
        self._identity: tuple[int, int] | None = None
        self._torn = False
        self._size = 0
        """What it had when it was last written to, or opened [bytes]."""

    def open(self) -> bool:
        """Have the file open that the path names now. True: it is another one than before, or the first, or was cut.

        Who copies a file and cuts it in place leaves it shorter than it was: what stood there cannot be relied on.

        Raises:
            OSError: it cannot be had.
        """
        if self._file >= 0 and self._there():
            return False
        self.close()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        found = os.fstat(self._file)
        self._identity = (found.st_dev, found.st_ino)
        # Somebody who died over a line left it without an end.
        self._size = found.st_size
        self._torn = self._regular() and found.st_size > 0 and os.pread(self._file, 1, found.st_size - 1) != b"\n"
        return True

    def append(self, lines: bytes) -> None:
        """Write whole lines.

        Raises:
            OSError: not all could be written, and what was is taken back where that is possible.
        """
        left = memoryview(b"\n" + lines if self._torn else lines)
        before = os.fstat(self._file).st_size
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            self._torn = not self._taken_back(before)
            raise
        self._torn = False
        self._size = os.fstat(self._file).st_size

    def close(self) -> None:
        """Let go of it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _there(self) -> bool:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._identity and found.st_size >= self._size

    def _regular(self) -> bool:
        return stat.S_ISREG(os.fstat(self._file).st_mode)

    def _taken_back(self, size: int) -> bool:
        if not self._regular():
            return False
        try:
            os.ftruncate(self._file, size)
        except OSError:
            return False
        return not self._torn
