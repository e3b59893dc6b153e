"""Files that a command is to write: checked before the work, written whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from kvroute.simulator.errors import SimulatorError


class WritablePath(click.Path):
    """A file that can be written: its folder exists, and it is no folder itself. `-` is standard output."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, allow_dash=True, path_type=Path)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path.

        Raises:
            click.BadParameter: it cannot be written; says why.
        """
        path: Path = super().convert(value, param, ctx)  # type: ignore[arg-type, assignment]
        if str(path) == "-":
            return path
        folder = path.absolute().parent
        if not folder.is_dir():
            self.fail(f"there is no folder {folder}; make it first", param, ctx)
        if not path.exists() and not os.access(folder, os.W_OK | os.X_OK):
            self.fail(f"the folder {folder} cannot be written to", param, ctx)
        return path


class PagePath(WritablePath):
    """A page of plots to write: needs the extra `report`."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path.

        Raises:
            click.BadParameter: it cannot be written, or plots cannot be drawn; says why.
        """
        if importlib.util.find_spec("plotly") is None:
            self.fail("pages need the extra 'report': pip install 'kvroute[report]'", param, ctx)
        return super().convert(value, param, ctx)


class Outputs:
    """What a command was asked to write. Each method makes its content only where it is wanted."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Of `options`: json_path, csv_path, html_path, quiet."""
        self._options = options
        self._written: list[Path] = []

    @property
    def shown(self) -> bool:
        """Whether people are to see a table: not when asked to be quiet, nor where a file goes to standard output."""
        files = (self._options[name] for name in ("json_path", "csv_path", "html_path"))
        return not self._options["quiet"] and all(str(path) != "-" for path in files)

    def json(self, content: Callable[[], bytes]) -> None:
        """Where --json says."""
        self.put(self._options["json_path"], content)

    def csv(self, content: Callable[[], bytes]) -> None:
        """Where --csv says."""
        self.put(self._options["csv_path"], content)

    def html(self, content: Callable[[], str | None]) -> None:
        """Where --html says; of None, which is no page because there was nothing to draw, that is said."""
        path = self._options["html_path"]
        if path is None:
            return
        page = content()
        if page is None:
            click.echo(f"kvroute: there is nothing to draw yet: {path} was not written", err=True)
        else:
            self.put(path, page.encode)

    def put(self, path: Path | None, content: Callable[[], bytes]) -> None:
        """At that path, if there is one."""
        if path is not None:
            write(path, content())
            self._written.append(path)

    def told(self, console: Console) -> None:
        """Say what was written."""
        for path in self._written:
            console.print(f"written: {path}", style="dim", highlight=False, soft_wrap=True)


def write(path: Path, content: bytes) -> None:
    """Write all of it or nothing: an interrupted write leaves what was there before.

    Raises:
        SimulatorError: it cannot be written; names the file and why.
    """
    if str(path) == "-":
        with click.open_file("-", "wb") as stream:
            stream.write(content)
        return
    try:
        if path.exists() and not path.is_file():  # a pipe or a device cannot be replaced
            path.write_bytes(content)
        else:
            _replace(path, content)
    except OSError as error:
        raise SimulatorError(f"{path}: {error.strerror or error}: it was not written") from error


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    """The process's umask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
