"""Kinds of replicas by name, and from files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from kvroute.scorers.contract import Role
from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.latency.presets import load, names, preset


def test_the_default_is_assumed_and_says_so() -> None:
    """Without a name one gets the study's constants, labelled as assumed."""
    kind = preset()
    assert kind == Kind() == preset("llama-3.1-8b-h100")
    assert (kind.step.c0, kind.step.c1, kind.step.c2, kind.step.c3, kind.step.c4) == (6e-3, 20e-6, 24e-9, 22e-6, 1e-9)
    assert kind.source.startswith("assumed")


def test_every_name_gives_the_kind_of_that_name() -> None:
    """Names are the kinds' own, the default's is the first."""
    assert names()[0] == Kind().name
    assert [preset(name).name for name in names()] == list(names())


def test_an_unknown_name_lists_what_exists() -> None:
    """The message suggests the nearest name and lists all."""
    with pytest.raises(
        FleetError, match=r"llama-3\.1-8b-h10'.*did you mean llama-3\.1-8b-h100\?.*there are .*roofline:MODEL"
    ) as raised:
        preset("llama-3.1-8b-h10")
    assert isinstance(raised.value, ValueError)


def test_a_file_is_a_kind(tmp_path: Path) -> None:
    """A YAML file says what differs from the default."""
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nstep: {c0: 0.01}\nlimits: {blocks: 100, max_num_batched_tokens: 277}\nrole: decode\n")
    kind = preset(str(path))
    assert (kind.name, kind.step.c0, kind.step.c1, kind.limits.blocks) == ("mine", 0.01, 20e-6, 100)
    assert (kind.role, kind.step.budget) == (Role.DECODE, 277)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: {c9: 1}", r"mine\.yaml: .*c9"),
        ("step: {c0: -1}", r"mine\.yaml: .*\$\.step\.c0"),
        ("[1, 2]", r"mine\.yaml: Expected `object`"),
        ("limits: {blocks: 1}", r"mine\.yaml: limits.blocks is at least 2, not 1"),
        (
            "limits: {max_num_batched_tokens: 128}",
            r"mine\.yaml: limits.max_num_seqs \(256\) is above limits.max_num_batched_tokens \(128\).*lower the one",
        ),
        ("role: router", r"mine\.yaml: role is one of both, prefill, decode, not 'router'"),
        ("a: [", r"mine\.yaml: not YAML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    """What is wrong is told with file and key."""
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(FleetError, match=message):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A path that leads nowhere is told."""
    with pytest.raises(FleetError, match=r"none\.yaml: No such file"):
        preset(str(tmp_path / "none.yaml"))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """As JSON, as YAML, and with numbers such as 1e-9, which YAML 1.1 takes for text."""
    kind = Kind(name="mine", source="here")
    json, yml, short = tmp_path / "kind.json", tmp_path / "kind.yaml", tmp_path / "short.yaml"
    json.write_bytes(msgspec.json.encode(kind))
    yml.write_text(yaml.safe_dump(msgspec.to_builtins(kind), sort_keys=False))
    assert load(json) == load(yml) == kind
    short.write_text("step: {c0: 6e-3, c4: 2e-9}\n")
    assert load(short).step.c4 == 2e-9
