"""`name,key=value,...`: what a workload can be told, in types that are checked."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from kvroute.simulator.errors import WorkloadError

Value: TypeAlias = int | float | str | None
FLAGS = ("requests", "rate", "seed", "speedup")
"""What is said of any workload, beside its name."""
_SUFFIXES = {"k": 1e3, "m": 1e6, "g": 1e9}
_PAIR = re.compile(r"([a-z][a-z0-9_.-]*)=([^,]*)")


class Option(NamedTuple):
    """One thing that a workload can be told. Its type is its kind's: int and float take 1k, 2.5m."""

    name: str
    default: Value
    meaning: str
    kind: type[int] | type[float] | type[str] = int
    least: float = 0
    most: float = 2**53
    choices: tuple[str, ...] = ()


class Options:
    """What was told, defaults filled in. Reading one that was not declared is a fault of ours: KeyError."""

    __slots__ = ("_values", "given")

    def __init__(self, values: Mapping[str, Value], given: frozenset[str] = frozenset()) -> None:
        self._values = dict(values)
        self.given = given
        """Names that the user wrote."""

    def value(self, name: str) -> Value:
        """Whatever it is."""
        return self._values[name]

    def changed(self, **values: Value) -> Options:
        """The same with these instead."""
        return Options(self._values | values, self.given)

    def whole(self, name: str) -> int:
        """A whole number."""
        value = self._values[name]
        assert isinstance(value, int)
        return value

    def number(self, name: str) -> float:
        """A number."""
        value = self._values[name]
        assert isinstance(value, int | float)
        return float(value)

    def number_or_none(self, name: str) -> float | None:
        """A number, where one was given."""
        return None if self._values[name] is None else self.number(name)

    def whole_or_none(self, name: str) -> int | None:
        """A whole number, where one was given."""
        return None if self._values[name] is None else self.whole(name)

    def text(self, name: str) -> str:
        """A word."""
        value = self._values[name]
        assert isinstance(value, str)
        return value


def split(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the trailing `,key=value` parts, and those. A path may contain commas and colons.

    Raises:
        WorkloadError: an option is given twice.
    """
    parts = text.split(",")
    first = len(parts)
    while first > 1 and _PAIR.fullmatch(parts[first - 1].strip()):
        first -= 1
    pairs: dict[str, str] = {}
    for part in parts[first:]:
        name, _, value = part.strip().partition("=")
        if name in pairs:
            raise WorkloadError(f"the option {name} is given twice in {text!r}")
        pairs[name] = value
    return ",".join(parts[:first]), pairs


def read(whose: str, declared: Sequence[Option], pairs: Mapping[str, str]) -> Options:
    """Check what was told against what is declared.

    Raises:
        WorkloadError: an unknown name (with the close ones, and what all mean), or a value that is none.
    """
    known = {option.name: option for option in declared}
    values: dict[str, Value] = {name: option.default for name, option in known.items()}
    for name, text in pairs.items():
        if name not in known:
            hint = f"; it is a flag: --{name}" if name in FLAGS else close(name, known)
            raise WorkloadError(f"{whose} has no option {name!r}{hint}. Its options are:\n{meanings(declared)}")
        values[name] = _value(whose, known[name], text)
    return Options(values, frozenset(pairs))


def meanings(declared: Iterable[Option]) -> str:
    """One line an option, for people; those of a mixture's parts (`chat.turns`) in one line together."""
    lines = []
    inner = False
    for option in declared:
        if "." in option.name:
            inner = True
            continue
        shown = option.default
        default = "not set" if shown is None else f"{shown:g}" if isinstance(shown, float) else str(shown)
        choices = f" ({', '.join(option.choices)})" if option.choices else ""
        lines.append(f"  {option.name:<14}{option.meaning}{choices} [{default}]")
    if inner:
        lines.append("  NAME.OPTION   an option of one part alone, such as chat.turns=8")
    return "\n".join(lines)


def close(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, where something comes close."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def count(text: str) -> float | None:
    """A number with an optional k, m or g behind it; None: it is none."""
    text = text.strip().lower().replace("_", "")
    factor = _SUFFIXES.get(text[-1:], 1.0)
    try:
        value = float(text[:-1] if factor != 1.0 else text) * factor
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _value(whose: str, option: Option, text: str) -> Value:
    if option.kind is str:
        if option.choices and text not in option.choices:
            hint = close(text, option.choices)
            raise WorkloadError(f"{whose}: {option.name}={text}: it is one of {', '.join(option.choices)}{hint}")
        return text
    value = count(text)
    if value is None or (option.kind is int and value != int(value)):
        what = "a whole number" if option.kind is int else "a number"
        raise WorkloadError(f"{whose}: {option.name}={text}: {what} is wanted (1k and 1m work): {option.meaning}")
    if not option.least <= value <= option.most:
        bound = f"at least {option.least:g}" if value < option.least else f"at most {option.most:g}"
        raise WorkloadError(f"{whose}: {option.name}={text}: it must be {bound}: {option.meaning}")
    return int(value) if option.kind is int else value
