"""A model's folder for all engines of the system tests."""

from __future__ import annotations

import pytest

from tests.modelfolder import make_model_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where its tokenizer and chat template are."""
    return str(make_model_folder(tmp_path_factory.mktemp("models") / "m"))
