"""YAML as people write it, JSON included: `1e-9` is a number, which PyYAML's YAML 1.1 takes for text."""

from __future__ import annotations

import re
from typing import Any

import yaml

_FLOAT = re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with the floats of YAML 1.2, which are those of JSON."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse(text: str | bytes) -> Any:
    """What the text holds.

    Raises:
        yaml.YAMLError: it is no YAML.
        UnicodeDecodeError: it is no text.
    """
    return yaml.load(text, _Loader)
