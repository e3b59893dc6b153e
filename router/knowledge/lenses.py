"""All models' lenses: which one reads whose prompts, chosen when an engine first tells of a model."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from kvroute.router.fleetwatch.background import run_in_background
from kvroute.router.knowledge import choice
from kvroute.router.knowledge.choice import AUTO, NONE, Basis, Chosen, Flags, Wanted
from kvroute.router.knowledge.text import Prompt, TextLens
from kvroute.router.knowledge.tokens.lens import TokenLens
from kvroute.router.parse import Body

if TYPE_CHECKING:
    from kvroute.router.knowledge.tokens.tokenizer import Loaded

log = logging.getLogger(__name__)

T = TypeVar("T")

LOAD_SECONDS = 120.0
"""Longest wait for a tokenizer: files may lie on a mount that is dead."""


class Lenses:
    """`read` reads text until a model's tokenizer is loaded."""

    def __init__(
        self,
        text: TextLens,
        tokenizer: str | Mapping[str, str] = AUTO,
        *,
        block_tokens: int | None = None,
        threads: int = 2,
        chat: Mapping[str, Flags] | None = None,
    ) -> None:
        """`tokenizer`: a path, a hub id, `auto` or `none`, or one of them per model (`*`: any other). `block_tokens`:
        None = the engine's. `chat`: per model, `*` for any other."""
        self.text = text
        self._wanted: Mapping[str, str] = {"*": tokenizer} if isinstance(tokenizer, str) else tokenizer
        self._block_tokens = block_tokens
        self._threads = threads
        self._chat = chat or {}
        self._chosen: dict[str, Chosen] = {}
        self._bases: dict[str, dict[str, Basis]] = {}
        """What each engine tells of each model."""
        self._contexts: dict[str, int | None] = {}
        self._tried: dict[str, set[Basis]] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._named: dict[str, Loaded] = {}
        self.chosen: Callable[[str], None] = _nobody
        """Called with a model's name when its lens is settled, or another one."""

    async def start(self) -> None:
        """Load the tokenizers that were asked for by name.

        Raises:
            ConfigError: one of them cannot be had.
        """
        for name in dict.fromkeys(self._wanted.values()):
            if name not in (AUTO, NONE):
                self._named[name] = await _in_thread(choice.load_named, name)

    async def close(self) -> None:
        """End the threads."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        for lens in self.token_lenses.values():
            lens.close()

    def serve(
        self,
        model: str,
        engine: str,
        root: str | None,
        block_tokens: int | None,
        context_tokens: int | None = None,
    ) -> None:
        """An engine serves this model: find its lens. `root` is what it says that the model comes from.

        Once chosen it stays, unless no engine tells any more what it was chosen on: a rolling update.
        """
        basis = Basis(root, block_tokens)
        self._contexts[model] = context_tokens
        self._bases.setdefault(model, {})[engine] = basis
        chosen = self._chosen.get(model)
        if chosen is not None and chosen.lens is not None:
            chosen.lens.context_tokens = context_tokens
        if model not in self._loading and (chosen is None or chosen.basis != basis):
            self._look(model)

    def leave(self, engine: str) -> None:
        """An engine is gone."""
        for told in self._bases.values():
            told.pop(engine, None)

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

    def _look(self, model: str) -> None:
        """Choose on what some engine tells, where that is due."""
        told = list(self._bases[model].values())
        chosen = self._chosen.get(model)
        if chosen is not None and chosen.lens is not None:
            if chosen.basis in told:
                log.warning("model %s: engines that serve it differ in root or block size: %s", model, set(told))
                return
            self._tried.pop(model, None)
        untried = [basis for basis in told if basis not in self._tried.setdefault(model, set())]
        if untried:
            self._tried[model].add(untried[0])
            self._loading[model] = run_in_background(self._choose(model, untried[0]), f"the lens of {model}")

    async def _choose(self, model: str, basis: Basis) -> None:
        try:
            chosen = await self._make(model, basis)
        except TimeoutError:
            chosen = Chosen(None, f"text lens: {basis.root} could not be read within {LOAD_SECONDS:g} s", basis=basis)
        except Exception as error:
            log.exception("model %s: its tokenizer or chat template cannot be used", model)
            chosen = Chosen(None, f"text lens: {type(error).__name__} in its tokenizer or chat template", basis=basis)
        del self._loading[model]
        before = self._chosen.get(model)
        self._chosen[model] = chosen
        if chosen.lens is not None:
            chosen.lens.context_tokens = self._contexts[model]
        if before is not None and before.lens is not None:
            before.lens.close()
        log.info("model %s: %s", model, chosen.told)
        if chosen.lens is None:
            self._look(model)
        self.chosen(model)

    async def _make(self, model: str, basis: Basis) -> Chosen:
        name = self._wanted.get(model, self._wanted.get("*", ""))
        if not name:
            log.warning("model %s: tokenizer names %s, not this one: auto", model, ", ".join(self._wanted))
            name = AUTO
        if name == NONE:
            return Chosen(None, "text lens: tokenizer is none", basis=basis)
        flags = self._chat.get(model) or self._chat.get("*")
        if self._chat and flags is None:
            log.warning("model %s: chat names %s, not this one: no flags", model, ", ".join(self._chat))
        wanted = Wanted(name, self._block_tokens, self._threads, flags)
        return await _in_thread(choice.make, wanted, basis, self._named.get(name))


async def _in_thread(function: Callable[..., T], *given: object) -> T:
    """Run it in a thread of its own, which nobody waits for at the end: what it reads may never answer.

    Raises:
        TimeoutError: it takes longer than LOAD_SECONDS.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def done(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, error = None, None
        try:
            result = function(*given)
        except BaseException as raised:  # noqa: BLE001 - it is raised where it is awaited
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(done, result, error)

    threading.Thread(target=work, name="kvroute-tokenizer", daemon=True).start()
    async with asyncio.timeout(LOAD_SECONDS):
        return await future


def _nobody(model: str) -> None:
    """Nobody asked to be told."""
