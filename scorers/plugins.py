"""Loading scorers and policies by name, ours and other packages' through the same entry points."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec

from kvroute.scorers.contract import Policy, Scorer
from kvroute.scorers.errors import PluginError
from kvroute.scorers.guard import GuardedPolicy, OnFault, ignore_fault
from kvroute.scorers.latency import latency
from kvroute.scorers.pipeline import OURS, Pipeline, Weighted

SCORERS = "kvroute.scorers"
POLICIES = "kvroute.policies"
"""The two entry-point groups."""


class ScorerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One scorer of a configuration."""

    name: str
    weight: float = 1.0
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class PolicySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to choose: a named policy, or scorers to add up, or a named pipeline with scorers added or replaced.

    Scorers without a name are all there are, save that `role` is added unless it is listed.
    """

    name: str | None = None
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    scorers: tuple[ScorerSpec, ...] = ()


def load_policy(spec: str | PolicySpec = "latency", on_fault: OnFault = ignore_fault) -> Policy:
    """The policy that a name or a spec stands for. Only what it names is imported.

    `on_fault` is told each time that a plugin breaks its contract while requests run.

    Raises:
        PluginError: a name is unknown, an option is wrong, or a plugin cannot be loaded.
    """
    if isinstance(spec, str):
        spec = PolicySpec(spec)
    if spec.name is None and not spec.scorers:
        raise PluginError("a policy needs a name or a list of scorers")
    extras = [load_scorer(one) for one in spec.scorers]
    if spec.name is None:
        if all(one.name != "role" for one in extras):
            extras.append(load_scorer(ScorerSpec("role")))
        return _pipeline(Pipeline(()), extras, on_fault)
    policy, distribution = _make(POLICIES, "policy", spec.name, spec.options)
    if isinstance(policy, Pipeline):
        return _pipeline(policy, extras, on_fault)
    if extras:
        raise PluginError(f"policy {spec.name!r} ({distribution}) is not a sum: it takes no scorers")
    if not callable(getattr(policy, "choose", None)):
        raise PluginError(f"policy {spec.name!r} ({distribution}) has no method choose", distribution=distribution)
    return GuardedPolicy(policy, spec.name, distribution, latency(), on_fault)


def load_scorer(spec: ScorerSpec) -> Weighted:
    """One scorer, made with its options.

    Raises:
        PluginError: as `load_policy`.
    """
    scorer, distribution = _make(SCORERS, "scorer", spec.name, spec.options)
    where = f"scorer {spec.name!r} ({distribution})"
    if not isinstance(scorer, Scorer) or not callable(scorer.seconds):
        raise PluginError(f"{where} needs an attribute part and a method seconds", distribution=distribution)
    if scorer.part not in typing.get_args(typing.get_type_hints(Scorer)["part"]):
        raise PluginError(f"{where}: part must be 'start' or 'cost', not {scorer.part!r}", distribution=distribution)
    return Weighted(scorer, spec.weight, spec.name, distribution)


def _pipeline(base: Pipeline, extras: list[Weighted], on_fault: OnFault) -> Pipeline:
    try:
        return base.with_scorers(extras, on_fault)
    except ValueError as error:
        raise PluginError(str(error)) from error


def _make(group: str, kind: str, name: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The object that a plugin's factory makes of these options, and its distribution's name."""
    found = _entry_point(group, kind, name)
    distribution = found.dist.name if found.dist is not None else OURS
    where = f"{kind} {name!r} ({distribution})"
    try:
        factory = found.load()
    except Exception as error:
        raise _failed(f"{where} cannot be loaded", error, distribution) from error
    arguments = _arguments(where, factory, options, distribution)
    try:
        return factory(**arguments), distribution
    except Exception as error:
        raise _failed(f"{where} refuses its options", error, distribution) from error


def _failed(what: str, error: Exception, distribution: str) -> PluginError:
    return PluginError(f"{what}: {type(error).__name__}: {error}", distribution=distribution)


def _entry_point(group: str, kind: str, name: str) -> EntryPoint:
    found = list(entry_points(group=group, name=name))
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(sorted({point.name for point in entry_points(group=group)}))
        raise PluginError(f"no {kind} is called {name!r}; there are: {known}")
    owners = " and ".join(sorted(point.dist.name if point.dist is not None else "?" for point in found))
    raise PluginError(f"{kind} {name!r} is offered by {owners}: uninstall all but one")


def _arguments(
    where: str, factory: Callable[..., Any], options: Mapping[str, Any], distribution: str
) -> dict[str, Any]:
    """The options as the factory's annotations want them."""
    if not callable(factory):
        raise PluginError(f"{where} is not callable", distribution=distribution)
    parameters = {
        parameter.name: parameter
        for parameter in _signature(where, factory, distribution).parameters.values()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }
    for option in options:
        if option not in parameters:
            known = f"it has: {', '.join(parameters)}" if parameters else "it has none"
            raise PluginError(f"{where} has no option {option!r}; {known}", distribution=distribution)
    for parameter in parameters.values():
        if parameter.default is parameter.empty and parameter.name not in options:
            raise PluginError(f"{where} needs the option {parameter.name!r}", distribution=distribution)
    hints = _hints(where, factory, distribution) if options else {}
    return {
        option: _convert(f"{where}, option {option!r}", value, hints.get(option, Any), distribution)
        for option, value in options.items()
    }


def _signature(where: str, factory: Callable[..., Any], distribution: str) -> inspect.Signature:
    try:
        return inspect.signature(factory)
    except (ValueError, TypeError) as error:  # of a callable written in C, or that states a wrong one
        raise PluginError(f"{where}: its parameters cannot be read: {error}", distribution=distribution) from error


def _hints(where: str, factory: Any, distribution: str) -> dict[str, Any]:
    annotated: Any = factory.__init__ if inspect.isclass(factory) else factory
    try:
        return typing.get_type_hints(annotated)
    except Exception as error:  # annotations are code of the plugin, run here
        raise _failed(f"{where}: its annotations cannot be read", error, distribution) from error


def _convert(where: str, value: Any, hint: Any, distribution: str) -> Any:
    try:
        return msgspec.convert(value, hint)
    except (msgspec.ValidationError, TypeError) as error:
        raise PluginError(f"{where}: {error}", distribution=distribution) from error
