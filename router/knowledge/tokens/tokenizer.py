"""Finding a model's tokenizer: a path, a hub id, or what the engine says that it runs; all of it before the start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kvroute.router.errors import ConfigError
from kvroute.router.knowledge.tokens import files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

AUTO = "auto"
INSTALL = "pip install kvroute[tokenizer]"
_FILE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_WANTED = [
    "tokenizer*.json", "tokenizer.model.v*", "tekken.json", "special_tokens_map.json", "chat_template*",
    "additional_chat_templates/*", "config.json", "params.json", "preprocessor_config.json", "processor_config.json",
]  # fmt: skip
"""What is fetched of a hub's repository: the tokenizer and what its chat template needs, no weights."""


_SHOWN = 250
"""Characters of a name that a reason shows."""

_FLAGS = {"single_word", "lstrip", "rstrip", "normalized", "special"}
"""Of an added token, as the configuration and the library name them."""


class Loaded(msgspec.Struct, frozen=True):
    """A tokenizer, ready to be used."""

    tokenizer: Tokenizer
    folder: Path
    """Where its files lie; the chat template is looked for beside them."""
    source: str
    """Where it came from, for the report at start."""


class Unavailable(msgspec.Struct, frozen=True):
    """There is no tokenizer, and why: for the report at start."""

    reason: str


def load(wanted: str, root: str | None = None) -> Loaded | Unavailable:
    """Find and read a tokenizer. Reads files, and the network for a hub id that is not cached: not for the event loop.

    `wanted` is a tokenizer.json, a model's folder, a hub id, or "auto". `root` is what the engine's /v1/models tells
    of the model; only "auto" looks at it, and never downloads.

    Raises:
        ConfigError: a tokenizer was asked for by name, and the extra that reads it is not installed.
    """
    missing = _missing_extra()
    if missing is not None:
        if wanted != AUTO:
            raise ConfigError(f"tokenizer: {wanted!r} needs {missing}: {INSTALL}")
        return Unavailable(f"{missing} is not installed: {INSTALL}")
    try:
        file = _engine_folder(root) if wanted == AUTO else _named_folder(wanted)
    except (OSError, ValueError, RuntimeError) as error:  # names that no file can have; a home that nobody has
        return Unavailable(f"{_shown(root or '' if wanted == AUTO else wanted)}: {_first_line(error)}")
    return file if isinstance(file, Unavailable) else _read(file)


def _missing_extra() -> str | None:
    """The package of the extra that cannot be imported."""
    # A router's cores are for its requests: encoding is spread over our own few threads, never over all cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("tokenizers", "jinja2"):
        try:
            __import__(name)
        except ImportError:
            return name
    return None


def _named_folder(wanted: str) -> Path | Unavailable:
    """What the operator named: a file, a folder, else a hub id, from the local cache or the hub."""
    path = Path(wanted).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return _inside(path)
    if not _is_hub_id(wanted):
        return Unavailable(f"{wanted}: no such file or folder")
    cached = _snapshot(wanted, download=False)
    return cached if isinstance(cached, Path) else _snapshot(wanted, download=True)


def _engine_folder(root: str | None) -> Path | Unavailable:
    """What the engine says that it runs, where this machine has it already."""
    if not root:
        return Unavailable("the engine does not tell where its model comes from (`root` in /v1/models)")
    path = Path(root)
    if path.is_absolute():
        return _inside(path) if path.is_dir() else Unavailable(f"the engine's {_shown(root)} is not on this machine")
    if not _is_hub_id(root):
        return Unavailable(f"the engine's root {_shown(root)!r} is neither a folder here nor a hub id")
    return _snapshot(root, download=False)


def _inside(folder: Path) -> Path | Unavailable:
    file = folder / _FILE
    return file if file.is_file() else Unavailable(f"{folder} has no {_FILE}")


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= 2 and all(part and part[0].isalnum() for part in parts) and "\\" not in name


def _snapshot(name: str, *, download: bool) -> Path | Unavailable:
    """The tokenizer file of a hub's repository."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(name, allow_patterns=_WANTED, local_files_only=not download)
    except LocalEntryNotFoundError:
        return Unavailable(
            f"{name} could not be fetched from the hub" if download else f"{name} is not in the local hub cache"
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        return Unavailable(f"{_shown(name)}: {_first_line(error)}")
    return _inside(Path(found))


def _read(file: Path) -> Loaded | Unavailable:
    """Read a tokenizer.json, and what stands beside it that changes how text is tokenised."""
    from tokenizers import Tokenizer

    try:
        given = files.data(file, files.MOST_TOKENIZER_BYTES)
    except (OSError, ValueError) as error:
        return Unavailable(_first_line(error))
    try:
        tokenizer = Tokenizer.from_buffer(given)
    except Exception as error:  # noqa: BLE001  the library raises bare Exception for a file that it cannot read
        return Unavailable(f"{file}: {_first_line(error)}")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        config = files.json_object(file.parent / _CONFIG)
    except (OSError, ValueError) as error:
        return Unavailable(_first_line(error))
    try:
        _configure(tokenizer, config)
    except (TypeError, ValueError, OverflowError) as error:
        return Unavailable(f"{file.parent / _CONFIG}: {_first_line(error)}")
    return Loaded(tokenizer, file.parent, str(file))


def _configure(tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    """Add the tokens that transformers 5 adds as it loads. What stands around a text is left to the tokenizer's own
    file, as it does, whatever `add_bos_token` says."""
    from tokenizers import AddedToken

    tokenizer.encode_special_tokens = config.get("split_special_tokens") is True
    known = tokenizer.get_added_tokens_decoder()
    for number, token in sorted(_listed(config).items()):
        if number not in known:
            tokenizer.add_tokens(
                [AddedToken(token["content"], **{flag: token[flag] for flag in _FLAGS & token.keys()})]
            )
    contents = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for content in _special(config):
        if content not in contents:
            tokenizer.add_special_tokens([AddedToken(content, special=True, normalized=False)])


def _listed(config: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Id -> token, of those that the configuration adds."""
    listed = config.get("added_tokens_decoder") or {}
    if not isinstance(listed, dict):
        raise ValueError("added_tokens_decoder is no object")
    for number, token in listed.items():
        if not (isinstance(token, dict) and isinstance(token.get("content"), str)):
            raise ValueError(f"added_tokens_decoder: {_shown(number)} has no content")
    return {int(number): token for number, token in listed.items()}


def _special(config: dict[str, Any]) -> Iterator[str]:
    """The special tokens that a configuration names."""
    from kvroute.router.knowledge.tokens.templates import SPECIAL_TOKENS

    for name in SPECIAL_TOKENS:
        content = _content(config.get(name))
        if content:
            yield content
    for name in ("extra_special_tokens", "additional_special_tokens"):
        more = config.get(name) or ()
        if not isinstance(more, dict | list | tuple):
            raise ValueError(f"{name} is neither a list nor an object")
        for token in more.values() if isinstance(more, dict) else more:
            content = _content(token)
            if content:
                yield content


def _content(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _first_line(error: Exception) -> str:
    return _shown((str(error) or type(error).__name__).splitlines()[0])


def _shown(name: str) -> str:
    return name if len(name) <= _SHOWN else name[:_SHOWN] + "..."
