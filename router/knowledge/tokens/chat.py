"""What a chat is rendered from, whichever endpoint it came by; and how `/v1/chat/completions` says it."""

from __future__ import annotations

from typing import Any

import msgspec

from kvroute.router.knowledge.tokens.conversation import Refused
from kvroute.router.knowledge.tokens.rendered import Rendered

UNSET = (None, "auto")
"""Values that count as not given when the engine merges the variables of a template."""


class Options(msgspec.Struct, frozen=True):
    """The engine's flags that change how chats are rendered."""

    content_format: str = "auto"
    """`--chat-template-content-format`: "auto", "string" or "openai"."""
    template_variables: dict[str, Any] = {}
    """`--default-chat-template-kwargs`."""
    exclude_tools_when_none: bool = False
    """`--exclude-tools-when-tool-choice-none`."""


class Chat(msgspec.Struct):
    """One conversation and what goes with it."""

    messages: list[Any]
    tools: list[dict[str, Any]] | None
    """As templates are given them."""
    variables: dict[str, Any]
    """The request's, among them `add_generation_prompt` and `continue_final_message`."""
    rendered: Rendered
    """How it will be tokenised; without its text."""
    validated: bool = True
    """True: the engine validates the messages as those of chat completions."""
    defaults: dict[str, Any] = {}
    """Variables that hold where the engine has none by default."""


def read(fields: dict[str, Any], options: Options, generation_prompt: bool = True) -> Chat:
    """The chat of a body for `/v1/chat/completions`; `generation_prompt`: what the endpoint does where it says nothing.

    Raises:
        Refused: where the engine would answer 400.
    """
    if fields.get("chat_template") is not None:
        raise Refused("a chat template of its own")
    messages = fields.get("messages")
    if type(messages) is not list or not messages:
        raise Refused("no messages")
    tools = None
    if not (options.exclude_tools_when_none and fields.get("tool_choice") == "none"):
        tools = function_tools(fields.get("tools"))
    given = {
        "add_generation_prompt": bool(fields.get("add_generation_prompt", generation_prompt)),
        "continue_final_message": bool(fields.get("continue_final_message", False)),
        "documents": fields.get("documents"),
    }
    variables = merged(fields, given, fields.get("reasoning_effort"))
    return Chat(messages, tools, variables, tokenised(fields, special_tokens=False))


def merged(fields: dict[str, Any], given: dict[str, Any], effort: Any) -> dict[str, Any]:
    """The template's variables: those of `chat_template_kwargs`, those of the body's own fields before them."""
    own = fields.get("chat_template_kwargs")
    if own is None:
        own = {}
    elif type(own) is not dict:
        raise Refused("chat_template_kwargs that are no object")
    given["reasoning_effort"] = effort
    if effort is not None and "enable_thinking" not in own:
        given["enable_thinking"] = effort != "none"
    return own | {name: value for name, value in given.items() if value not in UNSET}


def tokenised(fields: dict[str, Any], special_tokens: bool) -> Rendered:
    """How the prompts of a body are tokenised; `special_tokens`: what the endpoint does where the body says nothing."""
    add = fields.get("add_special_tokens", special_tokens)
    truncate, side = fields.get("truncate_prompt_tokens"), fields.get("truncation_side")
    return Rendered(
        add_special_tokens=bool(add),
        truncate=truncate if type(truncate) is int else None,
        truncation_side=side if type(side) is str else None,
    )


def function_tools(tools: Any) -> list[dict[str, Any]] | None:
    """Tools as the engine's models write them: their own fields, in their order."""
    if tools is None:
        return None
    if type(tools) is not list or not tools:
        raise Refused("tools that are no list, or empty")
    return [_tool(tool) for tool in tools]


def _tool(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if type(tool) is dict else None
    if type(function) is not dict or tool.get("type", "function") != "function":
        raise Refused("a tool that is no function")
    defer = tool.get("defer_loading")
    made = {"type": "function", "function": described(function, defer)}
    return made if defer is None else made | {"defer_loading": defer}


def described(function: dict[str, Any], defer: Any = None) -> dict[str, Any]:
    """A function as templates are given it; `defer`: the tool's own `defer_loading`."""
    get = function.get
    if type(get("name")) is not str:
        raise Refused("a function without a name")
    made = {"name": get("name"), "description": get("description"), "parameters": get("parameters")}
    if get("strict") is not None:
        made["strict"] = get("strict")
    if (defer := defer if get("defer_loading") is None else get("defer_loading")) is not None:
        made["defer_loading"] = defer
    return made
