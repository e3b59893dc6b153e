"""Which lens reads which model."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kvroute.router.config import Chat
from kvroute.router.core import blocks
from kvroute.router.errors import ConfigError
from kvroute.router.knowledge import choice
from kvroute.router.knowledge.lenses import Lenses
from kvroute.router.knowledge.text import Prompt, TextLens
from kvroute.router.knowledge.tokens import files
from kvroute.router.knowledge.tokens.tokenizer import load
from kvroute.router.parse import parse
from tests.modelfolder import make_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder."""
    return make_model_folder(tmp_path_factory.mktemp("models") / "m")


@asynccontextmanager
async def started(tokenizer: str | dict[str, str] = "auto", **options: Any) -> AsyncIterator[Lenses]:
    """Lenses, and their end."""
    lenses = Lenses(TextLens(), tokenizer, **options)
    try:
        await lenses.start()
        yield lenses
    finally:
        await lenses.close()


async def serve(lenses: Lenses, model: str, root: str | None, block_tokens: int | None = 16) -> str:
    """Serve a model; what was chosen for it, in words."""
    settled = asyncio.Event()
    lenses.chosen = lambda name: settled.set() if name == model else None
    lenses.serve(model, "engine", root, block_tokens)
    async with asyncio.timeout(20):
        await settled.wait()
    chosen = lenses.of(model)
    assert chosen is not None
    return chosen.told


async def read(lenses: Lenses, model: str, **fields: object) -> Prompt:
    """One completion's prompt."""
    found = lenses.read(parse(b"/v1/completions", json.dumps({"model": model, **fields}).encode()), model, None)
    return found if isinstance(found, Prompt) else await found


async def test_auto_takes_the_folder_that_the_engine_names(folder: Path) -> None:
    """With no option at all a model whose folder is here is read by tokens, in the engine's blocks."""
    async with started() as lenses:
        told = await serve(lenses, "m", str(folder), 32)
        assert told.startswith("token lens:")
        assert "blocks of 32 tokens" in told
        prompt = await read(lenses, "m", prompt=list(range(100)))
    ids = blocks.pack(range(100))
    assert prompt.keys == blocks.extend(blocks.token_root(None, None, 32), ids, 128)
    assert (prompt.tokens, prompt.block_tokens) == (100, 32.0)


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        (None, "does not tell where its model comes from"),
        ("/nowhere/at/all", "is not on this machine"),
        ("kvroute/no-such-model", "is not in the local hub cache"),
    ],
)
async def test_auto_falls_back_to_text_and_says_why(root: str | None, reason: str) -> None:
    """Nothing is downloaded, and prompts are read as text; the reason is told."""
    async with started() as lenses:
        told = await serve(lenses, "m", root)
        assert told.startswith("text lens:")
        assert reason in told
        prompt = await read(lenses, "m", prompt="x" * 2000)
    assert (len(prompt.keys), prompt.text_bytes) == (3, 2000)


async def test_text_is_read_until_a_lens_is_chosen(folder: Path) -> None:
    """A request that comes while the tokenizer is being loaded does not wait for it."""
    async with started() as lenses:
        lenses.serve("m", "engine", str(folder), 16)
        assert (await read(lenses, "m", prompt="x" * 2000)).text_bytes == 2000


async def test_none_switches_tokens_off(folder: Path) -> None:
    """`none` reads text although a tokenizer is at hand; a mapping says it per model."""
    async with started({"a": "none"}) as lenses:
        assert (await serve(lenses, "a", str(folder))).startswith("text lens:")
        assert (await serve(lenses, "b", str(folder))).startswith("token lens:")


async def test_a_star_stands_for_any_other_model(folder: Path) -> None:
    """A model that is not named takes what stands under `*`."""
    async with started({"a": str(folder), "*": "none"}) as lenses:
        assert (await serve(lenses, "a", None)).startswith("token lens:")
        assert (await serve(lenses, "b", str(folder))).startswith("text lens:")


async def test_a_named_tokenizer_serves_every_model(folder: Path) -> None:
    """What the operator names goes before what the engine says; our block size before the engine's."""
    async with started(str(folder), block_tokens=8) as lenses:
        assert "blocks of 8 tokens" in await serve(lenses, "a", None, 16)
        assert (await serve(lenses, "b", "/nowhere")).startswith("token lens:")


async def test_a_named_tokenizer_that_is_not_there_stops_the_start() -> None:
    """The fault names what was asked for."""
    with pytest.raises(ConfigError, match=r"tokenizer: /nowhere: no such file"):
        async with started("/nowhere"):
            pass


async def test_a_model_whose_chats_cannot_be_rendered_is_read_as_text(tmp_path: Path) -> None:
    """An engine that puts chats together by code of its own would never match our rendering."""
    folder = make_model_folder(tmp_path / "oss")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]}))
    async with started() as lenses:
        assert "harmony" in await serve(lenses, "m", str(folder))


async def test_a_model_without_chat_template_is_read_by_tokens(tmp_path: Path) -> None:
    """Its engine refuses chats; completions need no template."""
    folder = make_model_folder(tmp_path / "base", template=None)
    async with started() as lenses:
        assert (await serve(lenses, "m", str(folder))).startswith("token lens:")


async def test_flags_of_the_engines_change_the_prompts(folder: Path, tmp_path: Path) -> None:
    """A chat template given to the engines is used for that model, and the others keep the one in the folder."""
    template = tmp_path / "own.jinja"
    template.write_text("{% for message in messages %}{{ shout }}{{ message.content }}{% endfor %}")
    flags = {"a": Chat(chat_template=str(template), template_variables={"shout": "the ing " * 40})}
    body = json.dumps({"messages": [{"role": "user", "content": "hello " * 20}]}).encode()
    async with started(chat=flags) as lenses:
        await serve(lenses, "a", str(folder))
        await serve(lenses, "b", str(folder))
        found = []
        for model in ("a", "b"):
            prompt = lenses.read(parse(b"/v1/chat/completions", body), model, None)
            found.append(prompt if isinstance(prompt, Prompt) else await prompt)
    assert found[0].tokens > found[1].tokens + 60
    assert found[0].keys[0] != found[1].keys[0]


@pytest.mark.parametrize(
    ("template", "reason"), [("{% for %}", "cannot be compiled"), ("no_such_name", "neither a file nor the name")]
)
async def test_a_template_that_is_of_no_use_leaves_text(folder: Path, template: str, reason: str) -> None:
    """What cannot be compiled, or is neither a file nor one of the model's templates, is told."""
    async with started(chat={"*": Chat(chat_template=template)}) as lenses:
        assert reason in await serve(lenses, "m", str(folder))


async def test_an_engine_that_is_updated_is_read_anew(folder: Path, tmp_path: Path) -> None:
    """When no engine serves what the lens was chosen on any more, it is chosen again; while one does, it stays."""
    other = make_model_folder(tmp_path / "other", family="unigram")
    changes: list[str] = []
    async with started() as lenses:
        await serve(lenses, "m", str(folder))
        first = lenses.of("m")
        lenses.chosen = changes.append
        lenses.serve("m", "second", str(other), 16)
        assert not lenses._loading
        lenses.serve("m", "engine", str(other), 32)
        async with asyncio.timeout(20):
            while not changes:  # noqa: ASYNC110 - what is waited for is called, not set
                await asyncio.sleep(0.01)
        assert lenses.of("m") is not first
        told = lenses.of("m")
        assert told is not None
        assert str(other) in told.told


async def test_a_second_engine_may_name_what_the_first_could_not(folder: Path) -> None:
    """Where the first engine's folder is not on this machine, the next one's is tried."""
    async with started() as lenses:
        assert (await serve(lenses, "m", "/nowhere/at/all")).startswith("text lens:")
        settled = asyncio.Event()
        lenses.chosen = lambda _: settled.set()
        lenses.serve("m", "second", str(folder), 16)
        async with asyncio.timeout(20):
            await settled.wait()
        chosen = lenses.of("m")
        assert chosen is not None
        assert chosen.lens is not None


async def test_whatever_a_tokenizer_raises_text_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Foreign code that fails in a way nobody foresaw is logged, and prompts are read as text."""

    def fails(*given: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(choice, "make", fails)
    async with started() as lenses:
        assert "ZeroDivisionError" in await serve(lenses, "m", str(folder))


async def test_a_folder_that_never_answers_delays_no_other_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead mount in the place of a tokenizer keeps its own model waiting, nobody else, and not the end."""
    stuck = make_model_folder(tmp_path / "stuck")
    true, gate = files.data, threading.Event()

    def hangs(file: Path, most_bytes: int = files.MOST_BYTES) -> bytes:
        if stuck in file.parents:
            assert gate.wait(60)
        return true(file, most_bytes)

    monkeypatch.setattr(files, "data", hangs)
    async with started() as lenses:
        lenses.serve("hangs", "engine", str(stuck), 16)
        assert (await serve(lenses, "m", str(folder))).startswith("token lens:")
    gate.set()


async def test_without_the_extra_text_is_read(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The base install has no tokenizer: `auto` says how to get one, a name is refused with the same words."""
    import builtins

    true: Callable[..., object] = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name == "tokenizers":
            raise ImportError(name)
        return true(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    async with started() as lenses:
        assert "pip install kvroute[tokenizer]" in await serve(lenses, "m", str(folder))
    with pytest.raises(ConfigError, match=r"pip install kvroute\[tokenizer\]"):
        load(str(folder))
