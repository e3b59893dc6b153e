"""The two C programs, compiled on demand into bench/build."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / "build"
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")


class NoCompiler(Exception):
    """There is no C compiler on PATH, so nothing can be measured."""


def compiler() -> str | None:
    """The C compiler to use, or None."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build(name: str, into: Path = BUILD) -> Path:
    """Path of the compiled `name`.c, compiled again when the source is newer.

    Raises:
        NoCompiler: neither cc, gcc nor clang is on PATH.
        subprocess.CalledProcessError: the compiler refused the source.
    """
    source, program = HERE / f"{name}.c", into / name
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    found = compiler()
    if found is None:
        raise NoCompiler("no C compiler (cc, gcc or clang) on PATH: the benchmark's backend and load are C programs")
    into.mkdir(parents=True, exist_ok=True)
    subprocess.run([found, *FLAGS, "-o", str(program), str(source), "-lm"], check=True)
    return program
