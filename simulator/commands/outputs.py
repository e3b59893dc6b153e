"""Files that a command is to write: checked before the work, written whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path

import click


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


def write(path: Path, content: bytes) -> None:
    """Write all of it or nothing: an interrupted write leaves what was there before."""
    if str(path) == "-":
        with click.open_file("-", "wb") as stream:
            stream.write(content)
        return
    if path.exists() and not path.is_file():  # a pipe or a device cannot be replaced
        path.write_bytes(content)
        return
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
