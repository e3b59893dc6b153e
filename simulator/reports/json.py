"""Results as JSON: the same bytes for the same run, on any machine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from kvroute import __version__
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.runs.outcome import Sample
from kvroute.simulator.runs.scenario import Scenario

DIGITS = 6
"""Significant digits of a float: what a processor may compute differently lies far beyond them."""


def run_document(scenario: Scenario, summary: Summary, samples: Sequence[Sample] = ()) -> bytes:
    """One run: {"kvroute": version, "scenario": ..., "summary": ..., "samples": [...]}."""
    return document({"scenario": described(scenario), "summary": summary, "samples": samples})


def document(parts: Mapping[str, Any]) -> bytes:
    """Structs, lists and numbers under their names, after the version; lists of structs have one a line.

    Floats have DIGITS significant digits; what is no number, or infinite, is null.
    """
    lines = [b'  "kvroute": ' + orjson.dumps(__version__)]
    lines += [b"  " + orjson.dumps(name) + b": " + _encode(value) for name, value in parts.items()]
    return b"{\n" + b",\n".join(lines) + b"\n}\n"


def described(scenario: Scenario) -> dict[str, Any]:
    """A scenario with equal neighbours among its replicas said once: {"count": 8, "kind": {...}}."""
    fleet = [{"count": len(list(equal)), "kind": kind} for kind, equal in itertools.groupby(scenario.replicas)]
    return {**{name: getattr(scenario, name) for name in scenario.__struct_fields__}, "replicas": fleet}


def _encode(value: Any) -> bytes:
    plain = rounded(msgspec.to_builtins(value))
    if isinstance(plain, list) and plain and isinstance(plain[0], dict):
        return b"[\n    " + b",\n    ".join(orjson.dumps(one) for one in plain) + b"\n  ]"
    return orjson.dumps(plain, option=orjson.OPT_INDENT_2).replace(b"\n", b"\n  ")


def rounded(value: Any) -> Any:
    """The same with every float cut to DIGITS significant digits; None for what is not finite."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return value
