"""One chat template, compiled as the engine compiles it, and what the engine reads off its syntax tree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import ext, meta, nodes, parser, sandbox

from kvroute.router.knowledge.tokens import contents

_DICT_NAMES = frozenset(dir(dict))
"""What `message.items` and its like mean: the method, whatever keys the message has."""

MOST_VERDICTS = 1000
"""Kept of the sandbox; a namespace's attributes may be named by a request."""

FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)
"""What a template raises on input it was not written for; the engine answers 400 to all of them."""


class Template:
    """A compiled chat template."""

    __slots__ = ("_compiled", "content_parts", "developer", "source", "system_first", "variables")

    def __init__(self, source: str) -> None:
        """Compile it.

        Raises:
            jinja2.TemplateSyntaxError: it is no template.
        """
        environment = _environment()
        tree = environment.parse(source)
        self.source = source
        self._compiled = environment.from_string(source)
        self.content_parts = contents.loops_over_content(tree)
        """True: it is given every content as a list of parts; False: as text."""
        self.developer = '"developer"' in source or "'developer'" in source
        """True: it knows the role "developer"; to the others such a message is given as a system message."""
        self.variables = frozenset(meta.find_undeclared_variables(tree))
        """The names that it reads from outside."""
        self.system_first = self._refuses_late_system()
        """True: it takes a system message at the beginning only."""

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises one of FAULTS where the template, or the engine, refuses the input."""
        return self._compiled.render(variables)

    def _refuses_late_system(self) -> bool:
        turns = [{"role": role, "content": "t"} for role in ("system", "user", "system", "user")]
        bare = sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols]
        )
        try:
            # In the environment that the engine probes in, which lacks our functions: a template that calls one fails.
            bare.from_string(self.source).render(messages=turns, add_generation_prompt=False)
        except FAULTS:
            return True
        return False


class _Environment(sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, with short ways for what templates do most: reading keys of plain dicts, and the same attributes of
    the same types again, whose safety depends on nothing else."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._verdicts: dict[tuple[type, str], bool] = {}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        verdict = self._verdicts.get((type(obj), attr))
        if verdict is None:
            verdict = super().is_safe_attribute(obj, attr, value)
            if len(self._verdicts) < MOST_VERDICTS:
                self._verdicts[type(obj), attr] = verdict
        return verdict

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute not in _DICT_NAMES:
            try:
                return obj[attribute]
            except KeyError:
                return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


class _Generation(ext.Extension):
    """`{% generation %}`: marks what the model wrote, for training; here only its content counts."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def parse(self, parser: parser.Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Any) -> Any:
        return caller()


def _environment() -> _Environment:
    made = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols])
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = _strftime_now
    return made


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Plain JSON: jinja2's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    """Today, in this machine's time zone, which should be the engine's."""
    return datetime.now().strftime(form)
