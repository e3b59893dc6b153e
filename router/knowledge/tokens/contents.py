"""Does a chat template walk through a message's content part by part? The engine tells it from the syntax tree."""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes


class _NotAName(Exception):
    """A loop or assignment over messages with a target that the engine's judgement does not follow."""


def loops_over_content(tree: nodes.Template) -> bool:
    """True where some loop goes over `content` of a message: then contents are given as lists of parts.

    The rules are vLLM's (`--chat-template-content-format auto`), its blind spots included: they decide what it renders.
    """
    try:
        return _loops(tree)
    except _NotAName:
        return False


def _loops(tree: nodes.Template) -> bool:
    messages = _messages(tree)
    in_macros = _macro_parameters(tree, messages)
    for loop in tree.find_all(nodes.For):
        if any(_reaches(loop.iter, name, "content") for name in messages) or _named(loop.iter, loop, in_macros):
            _name(loop.target)
            return True
    return False


def _named(node: nodes.Node, loop: nodes.For, in_macros: dict[nodes.For, set[str]]) -> bool:
    """True for a bare name that stands for a content: a macro's parameter, or `content` outside of macros."""
    return isinstance(node, nodes.Name) and node.name in in_macros.get(loop, {"content"})


def _messages(tree: nodes.Template) -> list[str]:
    """Names of the loop variables that are a message."""
    lists = list(_aliases(tree, "messages"))
    return [_name(loop.target) for loop in tree.find_all(nodes.For) if any(_reaches(loop.iter, name) for name in lists)]


def _aliases(tree: nodes.Template, name: str) -> Iterator[str]:
    """`name` and every variable that is set to it, or to a slice or filtering of it."""
    known, pending = {name}, [name]
    while pending:
        current = pending.pop()
        yield current
        for assignment in tree.find_all(nodes.Assign):
            if _reaches(assignment.node, current) and (target := _name(assignment.target)) not in known:
                known.add(target)
                pending.append(target)


def _macro_parameters(tree: nodes.Template, messages: list[str]) -> dict[nodes.For, set[str]]:
    """For each loop in a macro: the macro's parameters that are somewhere given a message's content."""
    found: dict[nodes.For, set[str]] = {}
    for macro in tree.find_all(nodes.Macro):
        given = {
            parameter
            for call in tree.find_all(nodes.Call)
            if isinstance(call.node, nodes.Name) and call.node.name == macro.name
            for parameter, value in _arguments(macro, call)
            if any(_reaches(value, name, "content") for name in messages)
        }
        for loop in macro.find_all(nodes.For):
            found[loop] = given or found.get(loop, set())
    return found


def _arguments(macro: nodes.Macro, call: nodes.Call) -> Iterator[tuple[str, nodes.Node]]:
    names = [parameter.name for parameter in macro.args]
    yield from zip(names, call.args, strict=False)
    for keyword in call.kwargs:
        if isinstance(keyword, nodes.Keyword) and keyword.key in names:
            yield keyword.key, keyword.value


def _reaches(node: nodes.Node | None, name: str, key: str | None = None) -> bool:
    """True for the variable (or its `key`), also behind filters, tests and slices."""
    while True:
        match node:
            case nodes.Filter() | nodes.Test():
                node = node.node
            case nodes.Getitem(arg=nodes.Slice()):
                node = node.node
            case nodes.Getitem(arg=nodes.Const(value=value)) if key is not None:
                return value == key and _reads(node.node, name)
            case nodes.Getattr() if key is not None:
                return node.attr == key and _reads(node.node, name)
            case nodes.Name() if key is None:
                return _reads(node, name)
            case _:
                return False


def _reads(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name


def _name(target: nodes.Node) -> str:
    if isinstance(target, nodes.Name):
        return target.name
    raise _NotAName
