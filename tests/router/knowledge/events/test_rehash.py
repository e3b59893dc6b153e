"""Events in our own keys: what the token lens makes of the same prompt, and never anything else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.core import blocks
from kvroute.router.knowledge.events import rehash
from kvroute.router.knowledge.events.batch import BadBatch, BlockStored, decode
from kvroute.router.knowledge.events.fields import words
from tests.router.knowledge.events.naive import keys_of, payload, stored

ids = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40)


def _read(own: int, **fields: Any) -> rehash.Run | None:
    event = {**stored([1], None, [5], 1), **fields}
    (told,) = decode(payload(event)).events
    assert isinstance(told, BlockStored)
    found = rehash.read(told, words(told.block_hashes))
    return None if found is None else found.run(0, len(found.hashes), own)


def _keys(own: int, parent: int | None = None, **fields: Any) -> list[int]:
    run = _read(own, **fields)
    assert run is not None
    found: list[int] = rehash.keys(run, run.root if parent is None else parent).tolist()
    return found


@given(ids, st.integers(1, 4), st.integers(1, 3), st.none() | st.text(min_size=1), st.none() | st.text(min_size=1))
@settings(deadline=None)
def test_keys_are_those_of_the_token_lens(
    tokens: list[int], own: int, per_block: int, lora: str | None, salt: str | None
) -> None:
    """Whatever the ids, the adapter, the salt, and however many of our blocks are in one of theirs."""
    size = own * per_block
    count = len(tokens) // size
    told = tokens[: count * size]
    extra = [[one for one in (lora, salt if at == 0 else None) if one is not None] or None for at in range(count)]
    found = _keys(
        own, block_hashes=list(range(count)), token_ids=told, block_size=size, lora_name=lora, extra_keys=extra
    ) if count else []  # fmt: skip
    salted = salt if count else None
    assert found == keys_of(told, own, lora, salted)


@given(ids, st.integers(0, 2**64 - 1), st.integers(0, 40))
@settings(deadline=None)
def test_a_run_goes_on_from_its_parent(tokens: list[int], parent: int, cut: int) -> None:
    """Two events, the second behind the first, have the keys of one."""
    whole = _keys(1, parent, block_hashes=tokens, token_ids=tokens, block_size=1, parent_block_hash=7)
    head, tail = tokens[:cut], tokens[cut:]
    found = _keys(1, parent, block_hashes=head, token_ids=head, block_size=1, parent_block_hash=7) if head else []
    last = found[-1] if found else parent
    if tail:
        found = found + _keys(1, last, block_hashes=tail, token_ids=tail, block_size=1, parent_block_hash=7)
    assert found == whole


@pytest.mark.parametrize(
    ("lora", "extra", "salt"),
    [
        (None, None, None),
        (None, [None, None], None),
        (None, [], None),
        (None, [["s"], None], "s"),
        (None, [[["cache_salt", "s"]], None], "s"),
        ("ad", [["ad"], ["ad"]], None),
        ("ad", [["ad", "s"], ["ad"]], "s"),
        ("ad", [["ad", "ad"], ["ad"]], "ad"),
        ("ad", [[["lora", "ad", "/path"], ["cache_salt", "s"]], [["lora", "ad", "/path"]]], "s"),
        ("ad", None, None),
    ],
)
def test_adapter_and_salt_make_the_root(lora: str | None, extra: Any, salt: str | None) -> None:
    """They stand untagged in each block's extra keys, as recorded, or tagged as they are hashed."""
    found = _keys(2, block_hashes=[1, 2], token_ids=[1, 2, 3, 4], block_size=2, lora_name=lora, extra_keys=extra)
    assert found == keys_of([1, 2, 3, 4], 2, lora, salt)


@pytest.mark.parametrize(
    "media",
    [["image", 3], "image", b"embedding", 7, {"a": 1}, [["image", 3], ["other", 9]]],
)
def test_media_part_a_prompt_from_text(media: Any) -> None:
    """From the block that an image touches on, no key is that of the text alone; before it, all are."""
    tokens = list(range(8))
    plain = _keys(2, block_hashes=[1, 2, 3, 4], token_ids=tokens, block_size=2)
    found = _keys(2, block_hashes=[1, 2, 3, 4], token_ids=tokens, block_size=2, extra_keys=[None, [media], None, None])
    assert found[0] == plain[0]
    assert not set(found[1:]) & set(plain)
    again = _keys(2, found[1], block_hashes=[3, 4], token_ids=tokens[4:], block_size=2, parent_block_hash=2)
    assert again == found[2:]


def test_different_media_have_different_keys() -> None:
    """Another image, another offset, a salt before or none: all apart."""
    extras = [
        [["a", 0]],
        [["b", 0]],
        [["a", 1]],
        [["a", 0], "s"],
        ["s"],
        ["t"],
        [["a", 0], ["b", 0]],
        [b"e"],
        ["s", b"e"],
    ]
    found = {_keys(1, block_hashes=[1], token_ids=[5], block_size=1, extra_keys=[extra])[0] for extra in extras}
    assert len(found) == len(extras)


def test_a_salt_stands_on_a_first_block_only() -> None:
    """A string on a later block is something else, and is mixed in."""
    fields: dict[str, Any] = {"block_hashes": [2], "token_ids": [5], "block_size": 1, "parent_block_hash": 1}
    assert _keys(1, 99, **fields, extra_keys=[["s"]]) != _keys(1, 99, **fields)


def test_extra_keys_that_fit_no_block_part_all() -> None:
    """One list too few: nobody knows whose it is, so no key may be that of the text alone."""
    plain = keys_of([5, 6], 1)
    assert not set(_keys(1, block_hashes=[1, 2], token_ids=[5, 6], extra_keys=[["x"]])) & set(plain)
    assert not set(_keys(1, block_hashes=[1, 2], token_ids=[5, 6], extra_keys="x")) & set(plain)


@pytest.mark.parametrize("odd", [5, 1.5, None, True, {"a": 1}, [], ["lora"], ["lora", "other"], "x", b"x"])
def test_an_adapter_beside_odd_extra_keys_is_read(odd: Any) -> None:
    """Where its name is due there may be anything: that is mixed in."""
    plain = keys_of([5, 6], 1, "ad")
    found = _keys(
        1, block_hashes=[1, 2], token_ids=[5, 6], lora_name="ad", extra_keys=[["ad"], [odd, {"b": 2}]]
    )  # fmt: skip
    assert found[0] == plain[0]
    assert found[1] != plain[1]


def test_what_slips_through_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a field's content ever raise something of its own, its batch is bad, and nothing else is."""

    def fail(*_: object) -> None:
        raise TypeError("'int' object is not subscriptable")

    monkeypatch.setattr(rehash, "_split", fail)
    with pytest.raises(BadBatch, match="TypeError"):
        _read(1, extra_keys=[["x"]])


def test_extra_keys_of_no_block_are_not_made_anew_for_each() -> None:
    """Much of it, and many blocks: a digest of it stands for each."""
    run = _read(1, block_hashes=list(range(2000)), token_ids=[5] * 2000, extra_keys=["x" * 100_000])
    assert run is not None
    assert run.mixed is not None
    assert {len(one or b"") for one in run.mixed} == {19}


def test_an_adapter_s_name_inside_something_else_is_not_it() -> None:
    """Bytes that end as a list of names does are not taken for one."""
    assert _keys(1, lora_name="ad", extra_keys=[["x", ["ad"]]]) != _keys(1, lora_name="ad")
    assert _keys(1, lora_name="ad", extra_keys=[["ad"]]) == _keys(1, lora_name="ad")


def test_an_adapter_without_a_name_is_apart() -> None:
    """Older engines told a number only."""
    numbered = _keys(1, lora_id=3)
    assert numbered != _keys(1)
    assert numbered != _keys(1, lora_id=4)
    assert numbered != _keys(1, lora_name="3")
    assert _keys(1, lora_id=3, lora_name="ad") == keys_of([5], 1, "ad")


def test_tokens_that_are_not_those_of_the_blocks_are_not_read() -> None:
    """The engine left blocks out of the event: which, it does not say."""
    assert _read(1, block_hashes=[1, 2], token_ids=[1, 2, 3]) is None


@pytest.mark.parametrize("token", [-1, 2**32, 2**63])
def test_what_is_no_token_is_refused(token: int) -> None:
    """Ids are unsigned 32-bit numbers."""
    with pytest.raises(BadBatch, match="token_ids"):
        _read(1, token_ids=[token])


def test_mixing_changes_the_seed_only() -> None:
    """A block with something mixed in is hashed as any other, from another parent."""
    run = _read(1, extra_keys=[[["image", 0]]])
    assert run is not None
    assert run.mixed == [msgspec.msgpack.encode([["image", 0]])]
    assert rehash.next_key(1, blocks.pack([5]), 4, None) == blocks.extend(1, blocks.pack([5]), 4)[0]


def test_a_block_in_parts_has_a_hash_for_each() -> None:
    """The last part's hash is the engine's own, behind which children hang; one part is the block itself."""
    hashes = rehash.as_words([5, 2**64 - 1])
    assert rehash.spread(hashes, 1) is hashes
    parts = rehash.spread(hashes, 3).tolist()
    assert (len(set(parts)), parts[2], parts[5]) == (6, 5, 2**64 - 1)
