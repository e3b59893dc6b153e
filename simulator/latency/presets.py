"""Kinds of replicas by name: fitted to measured points, from first principles, or read from the user's own file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec
import yaml

from kvroute.router.core.document import parse
from kvroute.scorers.contract import Role
from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency import expression
from kvroute.simulator.latency.kind import Kind

DEFAULT = Kind().name
FILES = (".yaml", ".yml", ".json")


def preset(text: str = DEFAULT) -> Kind:
    """The kind that `text` names.

    Args:
        text: a preset's name; the path of a YAML or JSON file that holds a kind; or
            `roofline:MODEL,gpu=NAME[,tp=N]...` with a model's config.json or the name of a known model.

    Raises:
        FleetError: (a ValueError) it names nothing; the message lists what exists.
    """
    if text.startswith(expression.PREFIX):
        return expression.kind(text)
    if text.endswith(FILES):
        return load(text)
    kind = _fitted().get(text)
    if kind is None:
        raise FleetError(
            f"there is no preset {text!r}{meant(text, names())}; there are {', '.join(names())}, files that hold a kind"
            f" ({', '.join(FILES)}), and {expression.USAGE}"
        )
    return kind


def names() -> tuple[str, ...]:
    """All presets, the default first."""
    return tuple(_fitted())


def load(path: str | Path) -> Kind:
    """A kind from a YAML or JSON file whose keys are those of `Kind`; what it does not say is the default's.

    Raises:
        FleetError: it cannot be read, or holds something else; the message names the key.
    """
    held = read(path)
    if isinstance(held, dict):
        told: dict[str, object] = {"name": Path(path).stem, "source": str(path)}
        held = told | held
        role = held.get("role")
        if isinstance(role, str):
            if role.upper() not in Role.__members__:
                raise FleetError(f"{path}: role is one of {', '.join(Role.__members__).lower()}, not {role!r}")
            held["role"] = int(Role[role.upper()])
    try:
        kind = msgspec.convert(held, Kind)
    except msgspec.ValidationError as error:
        raise FleetError(f"{path}: {error}; the keys are those of a kind (docs/presets.md)") from error
    return msgspec.structs.replace(
        kind, step=msgspec.structs.replace(kind.step, budget=kind.limits.max_num_batched_tokens)
    )


def read(path: str | Path) -> object:
    """What a YAML or JSON file holds.

    Raises:
        FleetError: it cannot be read.
    """
    try:
        return parse(Path(path).read_bytes())
    except OSError as error:
        raise FleetError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FleetError(f"{path}: not YAML: {error}") from error


def meant(text: str, known: Iterable[str]) -> str:
    """A suggestion for a name that was mistyped, or nothing."""
    near = difflib.get_close_matches(text, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


@cache
def _fitted() -> dict[str, Kind]:
    held = files(__package__).joinpath("presets.json").read_bytes()
    return {kind.name: kind for kind in [Kind(), *msgspec.json.decode(held, type=list[Kind])]}
