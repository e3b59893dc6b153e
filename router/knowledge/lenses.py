"""Which lens reads which model's prompts: by tokens where its tokenizer is at hand, else by text; and why."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from kvroute.router.errors import ConfigError
from kvroute.router.knowledge.text import Prompt, TextLens
from kvroute.router.knowledge.tokens.encoding import Encoding
from kvroute.router.knowledge.tokens.lens import BLOCK_TOKENS, TokenLens
from kvroute.router.parse import Body

if TYPE_CHECKING:
    from kvroute.router.knowledge.tokens.tokenizer import Loaded

log = logging.getLogger(__name__)

T = TypeVar("T")

NONE = "none"
AUTO = "auto"


class Flags(Protocol):
    """What engines of a model were started with that changes their prompts."""

    @property
    def chat_template(self) -> str | None: ...

    @property
    def content_format(self) -> str: ...

    @property
    def template_variables(self) -> dict[str, Any]: ...

    @property
    def exclude_tools_when_none(self) -> bool: ...


class Chosen(msgspec.Struct, frozen=True):
    """A model's lens, and how it came to be."""

    lens: TokenLens | None
    """None: its prompts are read as text."""
    told: str
    """For people: what reads its prompts, and why."""
    faults: Mapping[str, int] = {}
    """Prompts that could not be rendered to their end, by reason; live."""


class Lenses:
    """All models' lenses. `read` reads text until a model's tokenizer is loaded."""

    def __init__(
        self,
        text: TextLens,
        tokenizer: str | dict[str, str] = AUTO,
        *,
        block_tokens: int | None = None,
        threads: int = 2,
        chat: Mapping[str, Flags] | None = None,
    ) -> None:
        """`tokenizer`: a path, a hub id, `auto` or `none`, or one of them per model (`*`: any other). `block_tokens`: None = the
        engine's. `chat`: per model, `*` for any other."""
        self.text = text
        self._wanted = tokenizer
        self._block_tokens = block_tokens
        self._threads = threads
        self._chat = chat or {}
        self._chosen: dict[str, Chosen] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._named: dict[str, Loaded] = {}
        self._loader = ThreadPoolExecutor(1, "kvroute-tokenizer")
        self.chosen: Callable[[str], None] = _nobody
        """Called with a model's name when its lens is settled."""

    async def start(self) -> None:
        """Load the tokenizers that were asked for by name.

        Raises:
            ConfigError: one of them cannot be had.
        """
        wanted = [self._wanted] if isinstance(self._wanted, str) else list(self._wanted.values())
        for name in dict.fromkeys(wanted):
            if name not in (AUTO, NONE):
                self._named[name] = await self._in_thread(_load_named, name)

    async def close(self) -> None:
        """End the threads."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        for chosen in self._chosen.values():
            if chosen.lens is not None:
                chosen.lens.close()
        self._loader.shutdown(wait=False, cancel_futures=True)

    def serve(self, model: str, root: str | None, block_tokens: int | None) -> None:
        """An engine serves this model: find its lens, once. `root` is what it says that the model comes from."""
        if model not in self._chosen and model not in self._loading:
            task = asyncio.get_running_loop().create_task(self._choose(model, root, block_tokens))
            self._loading[model] = task
            task.add_done_callback(lambda _: self._loading.pop(model, None))

    def of(self, model: str) -> Chosen | None:
        """The model's lens; None while it is looked for."""
        return self._chosen.get(model)

    @property
    def token_lenses(self) -> dict[str, TokenLens]:
        """Those that read tokens, by model."""
        return {model: chosen.lens for model, chosen in self._chosen.items() if chosen.lens is not None}

    # --- the traffic's side ---

    def read(self, body: Body, model: str, adapter: str | None) -> Prompt | Awaitable[Prompt]:
        """Key one body's prompt. Never raises."""
        chosen = self._chosen.get(model)
        if chosen is None or chosen.lens is None:
            return self.text.read(body, model, adapter)
        return chosen.lens.read(body, model, adapter)

    def observe(self, model: str, text_bytes: int, prompt_tokens: int) -> None:
        """The engine counted `prompt_tokens` for a prompt that the text lens read."""
        self.text.observe(model, text_bytes, prompt_tokens)

    # --- inside ---

    async def _choose(self, model: str, root: str | None, told: int | None) -> None:
        block_tokens = self._block_tokens or told or BLOCK_TOKENS
        wanted = self._wanted if isinstance(self._wanted, str) else self._wanted.get(model, self._wanted.get("*", AUTO))
        if wanted == NONE:
            chosen = Chosen(None, "text lens: tokenizer is none")
        else:
            chosen = await self._in_thread(self._make, wanted, model, root, block_tokens)
        self._chosen[model] = chosen
        log.info("model %s: %s", model, chosen.told)
        self.chosen(model)

    def _make(self, wanted: str, model: str, root: str | None, block_tokens: int) -> Chosen:
        """In a thread: load, check and compile; whatever is wrong with it, the text lens remains."""
        from kvroute.router.knowledge.tokens.tokenizer import Unavailable, load

        loaded = self._named.get(wanted) or load(wanted, root)
        if isinstance(loaded, Unavailable):
            return Chosen(None, f"text lens: {loaded.reason}")
        from kvroute.router.knowledge.tokens.chat import Options
        from kvroute.router.knowledge.tokens.renderer import Renderer
        from kvroute.router.knowledge.tokens.segments import Segments
        from kvroute.router.knowledge.tokens.selfcheck import check
        from kvroute.router.knowledge.tokens.templates import load_template

        flags = self._chat.get(model) or self._chat.get("*")
        options = Options()
        try:
            templates = load_template(loaded.folder, _template(flags))
        except (OSError, ValueError) as error:
            return Chosen(None, f"text lens: {loaded.folder}: {error}")
        if flags is not None:
            options = Options(flags.content_format, flags.template_variables, flags.exclude_tools_when_none)
        if templates.unsupported:
            return Chosen(None, f"text lens: {templates.unsupported} ({loaded.folder})")
        segments = Segments(loaded.tokenizer)
        pieces = "" if check(segments, loaded.source) and segments.splits else ", whole prompts at a time"
        renderer = Renderer(templates, options)
        lens = TokenLens(segments, renderer, block_tokens, Encoding(segments, self._threads))
        return Chosen(lens, f"token lens: {loaded.source}, blocks of {block_tokens} tokens{pieces}", renderer.faults)

    async def _in_thread(self, function: Callable[..., T], *given: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._loader, function, *given)


def _load_named(name: str) -> Loaded:
    from kvroute.router.knowledge.tokens.tokenizer import Unavailable, load

    loaded = load(name)
    if isinstance(loaded, Unavailable):
        raise ConfigError(f"tokenizer: {loaded.reason}; name a model's folder, its tokenizer.json, or a hub id")
    return loaded


def _template(flags: Flags | None) -> str | None:
    """The text of a template's file, or a template's name."""
    if flags is None or flags.chat_template is None:
        return None
    file = Path(flags.chat_template)
    return file.read_text(encoding="utf-8") if file.is_file() else flags.chat_template


def _nobody(model: str) -> None:
    """Nobody asked to be told."""
