"""How a model's lens is chosen and made: by tokens where its tokenizer is at hand, else by text; and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from kvroute.router.errors import ConfigError
from kvroute.router.knowledge.tokens.encoding import Encoding
from kvroute.router.knowledge.tokens.lens import BLOCK_TOKENS, TokenLens

if TYPE_CHECKING:
    from kvroute.router.knowledge.tokens.templates import Templates
    from kvroute.router.knowledge.tokens.tokenizer import Loaded

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


class Basis(msgspec.Struct, frozen=True):
    """What an engine tells of a model, on which its lens is chosen."""

    root: str | None
    """Where it says that the model comes from: a path or a hub's id."""
    block_tokens: int | None
    """Size of its blocks [tokens]."""


class Chosen(msgspec.Struct, frozen=True):
    """A model's lens, and how it came to be."""

    lens: TokenLens | None
    """None: its prompts are read as text."""
    told: str
    """For people: what reads its prompts, and why."""
    faults: Mapping[str, int] = {}
    """Prompts that could not be rendered to their end, by reason; live."""
    basis: Basis | None = None


class Wanted(msgspec.Struct, frozen=True):
    """What the operator wants for one model."""

    tokenizer: str = AUTO
    block_tokens: int | None = None
    threads: int = 2
    flags: Flags | None = None


def load_named(name: str) -> Loaded:
    """The tokenizer that the operator named.

    Raises:
        ConfigError: it cannot be had.
    """
    from kvroute.router.knowledge.tokens.tokenizer import Unavailable, load

    loaded = load(name)
    if isinstance(loaded, Unavailable):
        raise ConfigError(f"tokenizer: {loaded.reason}; name a model's folder, its tokenizer.json, or a hub id")
    return loaded


def make(wanted: Wanted, basis: Basis, named: Loaded | None) -> Chosen:
    """Load, check and compile: not for the event loop. Whatever is wrong with it, the text lens remains."""
    from kvroute.router.knowledge.tokens.tokenizer import Unavailable, load

    loaded = named or load(wanted.tokenizer, basis.root)
    if isinstance(loaded, Unavailable):
        return _text(loaded.reason, basis)
    from kvroute.router.knowledge.tokens.chat import Options
    from kvroute.router.knowledge.tokens.renderer import Renderer
    from kvroute.router.knowledge.tokens.segments import Segments
    from kvroute.router.knowledge.tokens.selfcheck import check

    flags = wanted.flags
    try:
        templates = _templates(loaded.folder, flags)
    except (OSError, ValueError) as error:
        return _text(f"{loaded.folder}: {error}", basis)
    if templates.unsupported:
        return _text(f"{templates.unsupported} ({loaded.folder})", basis)
    options = Options()
    if flags is not None:
        options = Options(flags.content_format, flags.template_variables, flags.exclude_tools_when_none)
    block_tokens = wanted.block_tokens or basis.block_tokens or BLOCK_TOKENS
    segments = Segments(loaded.tokenizer)
    pieces = "" if check(segments, loaded.source) and segments.splits else ", whole prompts at a time"
    renderer = Renderer(templates, options)
    lens = TokenLens(segments, renderer, block_tokens, Encoding(segments, wanted.threads))
    told = f"token lens: {loaded.source}, blocks of {block_tokens} tokens{pieces}"
    return Chosen(lens, told, renderer.faults, basis)


def _text(reason: str, basis: Basis) -> Chosen:
    return Chosen(None, f"text lens: {reason}", basis=basis)


def _templates(folder: Path, flags: Flags | None) -> Templates:
    """The model's templates, or the one that its engines were given: a file, a template's text, or a name.

    Raises:
        OSError, ValueError: a file cannot be read; the name is none of the model's.
    """
    from kvroute.router.knowledge.tokens import files
    from kvroute.router.knowledge.tokens.templates import load_template

    if flags is None or flags.chat_template is None:
        return load_template(folder)
    given = flags.chat_template
    is_text = "{" in given
    if not is_text and Path(given).is_file():
        given, is_text = files.text(Path(given)), True
    templates = load_template(folder, given)
    if not is_text and templates.plain is not None and templates.plain.source == given:
        raise ValueError(f"chat_template {given!r} is neither a file nor the name of one of its templates")
    return templates
