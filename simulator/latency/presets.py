"""Kinds of replicas by name: fitted to measured points, or read from the user's own file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec
import yaml

from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.kind import Kind

DEFAULT = Kind().name
FILES = (".yaml", ".yml", ".json")


def preset(text: str = DEFAULT) -> Kind:
    """The kind that `text` names: a preset's name, or the path of a YAML or JSON file that holds one.

    Raises:
        FleetError: (a ValueError) it names nothing; the message lists what exists.
    """
    if text.endswith(FILES):
        return load(text)
    kind = _fitted().get(text)
    if kind is None:
        raise FleetError(f"there is no preset {text!r}{_meant(text, names())}; there are: {', '.join(names())}")
    return kind


def names() -> tuple[str, ...]:
    """All presets, the default first."""
    return tuple(_fitted())


def load(path: str | Path) -> Kind:
    """A kind from a YAML or JSON file whose keys are those of `Kind`; what it does not say is the default's.

    Raises:
        FleetError: it cannot be read, or holds something else; the message names the key.
    """
    try:
        held = yaml.safe_load(Path(path).read_bytes())
    except OSError as error:
        raise FleetError(f"{path}: {error.strerror}; give a preset's name, or a file that holds a kind") from error
    except yaml.YAMLError as error:
        raise FleetError(f"{path}: not YAML: {error}") from error
    try:
        return msgspec.convert(held, Kind)
    except msgspec.ValidationError as error:
        raise FleetError(f"{path}: {error}; its keys are those of a kind (docs/presets.md)") from error


def _meant(text: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(text, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


@cache
def _fitted() -> dict[str, Kind]:
    held = files(__package__).joinpath("presets.json")
    kinds = [Kind()]
    if held.is_file():
        kinds += msgspec.json.decode(held.read_bytes(), type=list[Kind])
    return {kind.name: kind for kind in kinds}
