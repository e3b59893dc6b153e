"""Which paths are whose."""

from __future__ import annotations

import pytest

from kvroute.router import paths


@pytest.mark.parametrize(
    "path",
    [b"/sleep", b"/sleep/", b"//sleep", b"/reset_prefix_cache", b"/update_weights", b"/update_weights_from_disk",
     b"/v1/load_lora_adapter", b"/collective_rpc", b"/pause", b"/resume"],
)  # fmt: skip
def test_management_paths_are_known_however_they_are_written(path: bytes) -> None:
    """Slashes do not hide a path that manages an engine."""
    assert paths.is_management(path)


@pytest.mark.parametrize("path", [b"/v1/completions", b"/v1/chat/completions", b"/tokenize", b"/sleepy", b"/", b""])
def test_work_is_not_management(path: bytes) -> None:
    """What asks for work is left alone."""
    assert not paths.is_management(path)


@pytest.mark.parametrize(
    ("path", "found"),
    [(b"/v1/responses/resp_1", "resp_1"), (b"/v1/responses/resp_1/cancel", "resp_1"), (b"/v1/responses", None),
     (b"/v1/responses/", None), (b"/v1/responses/a/b/c", None)],
)  # fmt: skip
def test_ids_of_stored_responses(path: bytes, found: str | None) -> None:
    """The id stands in the path, with or without what is to be done."""
    assert paths.response_id(path) == found
