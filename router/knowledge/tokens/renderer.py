"""Turns a request's body into the text that the engine will tokenise."""

from __future__ import annotations

from collections import Counter
from typing import Any

from kvroute.router.knowledge.tokens import chat, completions, messages, responses
from kvroute.router.knowledge.tokens.chat import UNSET, Chat, Options
from kvroute.router.knowledge.tokens.conversation import MARK, Conversation, Refused, without_developer
from kvroute.router.knowledge.tokens.rendered import Rendered
from kvroute.router.knowledge.tokens.template import FAULTS, Template
from kvroute.router.knowledge.tokens.templates import Templates
from kvroute.router.parse import Body, Kind

CONTINUED = "\ue000kvroute\ue001end\ue002 "
"""Marks the end of a final message that is to be continued. Its blank tells whether the template trims contents."""

NOT_FOR_TEMPLATES = {"padding", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs"}
"""Variables that end in the tokenizer's own function, without effect."""

RESERVED = {"messages", "conversation", "conversations", "chat_template", "tokenize", "self", "model_config"} | {
    "tokenizer",
    "return_assistant_tokens_mask",
}
"""Variables that a request cannot set: the engine fails, or renders something else."""


EFFORTS = ("none", "low", "medium", "high", "xhigh", "max")


class Renderer:
    """Renders for one model."""

    __slots__ = ("_disabled_effort", "_options", "_system_first", "_templates", "faults")

    def __init__(self, templates: Templates, options: Options | None = None) -> None:
        self._templates = templates
        self._options = options or Options()
        both = (templates.plain, templates.with_tools)
        self._system_first = any(template is None or template.system_first for template in both)
        self.faults: Counter[str] = Counter()
        """Requests of which something could not be rendered -> how many, by reason."""
        self._disabled_effort = "low"
        self._disabled_effort = self._probe()

    @property
    def unsupported(self) -> str:
        """Why chats cannot be rendered, to be shown; "" where they can."""
        return self._templates.unsupported

    def render(self, body: Body) -> Rendered:
        """What is known of the body's prompts, for any thread. Never raises: what the engine would refuse is not
        whole."""
        try:
            return self._render(body)
        except Refused as refused:
            return Rendered(whole=False, reason=str(refused))
        except FAULTS as fault:
            return Rendered(whole=False, reason=f"the template: {type(fault).__name__}")

    def note(self, rendered: Rendered) -> None:
        """Count what could not be rendered. On the loop, where the counts are read."""
        if not rendered.whole:
            self.faults[rendered.reason] += 1

    def _probe(self) -> str:
        """The effort by which `/v1/messages` switches thinking off: "none", or "low" where the template refuses that
        or takes no notice of it. The engine probes its template in the same way."""
        none, *others = (self._effort(effort) for effort in EFFORTS)
        return "low" if none is None or none in others else "none"

    def _effort(self, effort: str) -> str | None:
        asked = {"messages": [{"role": "user", "content": "Hi"}], "reasoning_effort": effort}
        try:
            return self._chat(chat.read(asked, self._options)).text
        except (Refused, *FAULTS):
            return None

    def _render(self, body: Body) -> Rendered:
        fields = body.fields
        match body.kind:
            case Kind.COMPLETION:
                return completions.read(fields, "prompt")
            case Kind.EMBEDDING if "messages" not in fields:
                return completions.read(fields, "input")
            case Kind.EMBEDDING:
                return self._chat(chat.read(fields, self._options, generation_prompt=False))
            case Kind.CHAT:
                return self._chat(chat.read(fields, self._options))
            case Kind.RESPONSES:
                return self._chat(responses.read(fields, self._options))
            case Kind.MESSAGES:
                return self._chat(messages.read(fields, self._options, self._system_first, self._disabled_effort))
            case _:
                raise Refused("a path whose prompt is not read")

    def _chat(self, asked: Chat) -> Rendered:
        if self.unsupported:
            raise Refused(self.unsupported)
        variables = self._variables(asked)
        template = self._templates.plain if variables.get("tools") is None else self._templates.with_tools
        if template is None:
            raise Refused("no chat template for it")
        text, media = self._text(template, asked, variables, marked=False)
        rendered = asked.rendered
        rendered.text = text
        if media:
            marked, _ = self._text(template, asked, variables, marked=True)
            rendered.text = _common(text, marked.partition(MARK)[0])
            rendered.whole, rendered.reason = False, "media"
        return rendered

    def _variables(self, asked: Chat) -> dict[str, Any]:
        """All but the messages, the later ones before the earlier: the engine's, the tools, the request's."""
        variables: dict[str, Any] = {"tools": None, "documents": None}
        variables |= self._templates.special_tokens
        variables |= self._options.template_variables or asked.defaults
        if asked.tools is not None:
            variables["tools"] = asked.tools
        variables |= {name: value for name, value in asked.variables.items() if value not in UNSET}
        if not RESERVED.isdisjoint(variables):
            raise Refused("reserved names in chat_template_kwargs")
        return {name: value for name, value in variables.items() if name not in NOT_FOR_TEMPLATES}

    def _text(self, template: Template, asked: Chat, variables: dict[str, Any], marked: bool) -> tuple[str, bool]:
        """The text, and whether something in it stands for media."""
        parts = template.content_parts if self._options.content_format == "auto" else self._options.content_format
        reader = Conversation(parts in (True, "openai"), asked.validated, marked)
        conversation = reader.convert(asked.messages)
        if not template.developer:
            conversation = without_developer(conversation)
        variables = dict(variables, messages=conversation)
        if not variables.pop("continue_final_message", False):
            return template.render(variables), reader.media
        if variables.get("add_generation_prompt"):
            raise Refused("a final message that is to be continued and followed by another")
        return _continued(template, variables), reader.media


def _continued(template: Template, variables: dict[str, Any]) -> str:
    """The text up to the end of the final message's content."""
    final = variables["messages"][-1]
    content = final["content"]
    if type(content) is list:
        part = next((part for part in reversed(content) if "text" in part), None)
        if part is None:
            raise Refused("a final message without text to continue")
        content = part["text"]
        part["text"] = content + CONTINUED
    else:
        final["content"] = content + CONTINUED
    text = template.render(variables)
    end = text.rfind(CONTINUED.strip())
    if end < 0 or content.strip() not in text or "content" not in template.source:
        raise Refused("a final message that the template leaves out")
    return text[:end] if text[end:].startswith(CONTINUED) else text[:end].rstrip()


def _common(one: str, other: str) -> str:
    """What both begin with."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if one.startswith(other[:middle]) else (least, middle - 1)
    return one[:least]
