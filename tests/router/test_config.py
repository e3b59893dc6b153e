"""Configuration: defaults, files, overrides, and faults that name their key."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from kvroute.router.config import Config, _numbers, load
from kvroute.router.errors import ConfigError
from kvroute.scorers.plugins import PolicySpec, ScorerSpec

ONE = ["http://127.0.0.1:8000"]
FLOATS = [key for key, _ in _numbers(Config()) if key.startswith(("watch.", "step."))]
MAY_BE_ZERO = {"watch.health.limits.probation", "step.c1", "step.c2", "step.c4", "step.c5"}


def test_one_backend_is_enough() -> None:
    """Everything but the backends has a default."""
    config = load(None, {"backends": ONE})
    assert config.policy_spec() == PolicySpec("latency")
    assert config.backend_list()[0].endpoint.port == 8000


def test_the_command_line_goes_over_the_file(tmp_path: Path) -> None:
    """A value given twice is the command line's; what it leaves out is the file's."""
    path = tmp_path / "kvroute.yaml"
    path.write_text("backends: [http://a:1]\nlisten: {port: 9, host: 127.0.0.1}\npolicy: lmetric\n")
    config = load(path, {"listen.port": 10, "policy": None})
    assert (config.listen.port, config.listen.host, config.policy) == (10, "127.0.0.1", "lmetric")


def test_scorers_with_weights(tmp_path: Path) -> None:
    """A list of scorers is added to the policy's sum."""
    path = tmp_path / "kvroute.yaml"
    path.write_text("backends: [http://a:1]\nscorers:\n- {name: congestion, weight: 0.5}\n")
    assert load(path, {}).policy_spec().scorers == (ScorerSpec("congestion", 0.5),)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({}, r"^backends: none given"),
        ({"backends": ["ftp://a"]}, r"^backends\[0\]: 'ftp://a'"),
        ({"backends": ONE, "listen.port": 70000}, r"^listen\.port: 70000"),
        ({"backends": ONE, "listen.port": "x"}, r"^listen\.port: Expected `int`"),
        ({"backends": ONE, "limits.body_bytez": 1}, r"^limits: Object contains unknown field `body_bytez`"),
        ({"backends": ONE, "listen.tls_cert": "c.pem"}, r"^listen\.tls_cert"),
        ({"backends": ONE, "knowledge.text_block_bytes": 1}, r"^knowledge.text_block_bytes: 1 is out of range"),
        ({"backends": ONE, "knowledge.block_tokens": -1}, r"^knowledge.block_tokens"),
        ({"backends": ONE, "knowledge.kv_events": "perhaps"}, r"^knowledge.kv_events"),
        ({"backends": ONE, "redis.flush_seconds": 0.0}, r"^redis.flush_seconds"),
        (
            {"backends": ONE, "chat": {"m": {"chat_template": "/no/such.jinja"}}},
            r"^chat\.m\.chat_template: there is no file",
        ),
        ({"backends": ONE, "workers": 0}, r"^workers: 0 is out of range; use 1 to 256"),
        ({"backends": ONE, "workers": 2}, r"^workers: 2 .*--redis redis://HOST:PORT"),
        ({"backends": ONE, "retry_share": 2.0}, r"^retry_share"),
        ({"backends": ONE + ONE}, r"^backends: .* twice"),
        ({"backends": ONE, "seed": -1}, r"^seed: Expected `int` >= 0"),
        ({"backends": ONE, "limits.stall_seconds": math.inf}, r"^limits\.stall_seconds: inf"),
        ({"backends": ONE, "watch.health.path": "health"}, r"^watch\.health\.path: "),
        ({"backends": ONE, "watch.health.limits.failures": 0}, r"^watch\.health\.limits\.failures: "),
        ({"backends": ONE, "step.budget": 0}, r"^step\.budget: "),
    ],
)
def test_faults_name_their_key(tree: dict[str, Any], says: str) -> None:
    """The message begins with the exact key."""
    with pytest.raises(ConfigError, match=says):
        load(None, tree)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", FLOATS)
def test_no_float_of_the_watch_or_the_step_model_is_unchecked(key: str, value: float) -> None:
    """What is negative or no finite number stops the start, by its key; so does a pause or a rate of zero."""
    with pytest.raises(ConfigError, match=f"^{re.escape(key)}: "):
        load(None, {"backends": ONE, key: value})
    if key in MAY_BE_ZERO:
        load(None, {"backends": ONE, key: 0.0})
    else:
        with pytest.raises(ConfigError, match=f"^{re.escape(key)}: "):
            load(None, {"backends": ONE, key: 0.0})


@pytest.mark.parametrize("text", ["- 1", "a: [", "\x00"])
def test_files_that_are_no_configuration(tmp_path: Path, text: str) -> None:
    """A file that is not YAML, or no mapping, is told by name."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load(path, {})


def test_a_missing_file_is_told() -> None:
    """By its name and the system's reason."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        load(Path("nowhere.yaml"), {})


def test_every_setting_has_a_default() -> None:
    """An empty configuration is complete but for its backends."""
    assert Config().limits.body_bytes == 64 * 1024 * 1024


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    """Without a point too, where YAML 1.1 sees text; in a policy's free options as well."""
    path = tmp_path / "k.yaml"
    path.write_text("knowledge: {cpu_seconds: 5e-6}\npolicy: {name: latency, options: {x: 1e-9}}\n")
    config = load(path, {"backends": ["http://127.0.0.1:8000"]})
    assert config.knowledge.cpu_seconds == 5e-6
    assert config.policy_spec().options["x"] == 1e-9
