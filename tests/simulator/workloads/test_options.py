"""Options behind a workload's name."""

from __future__ import annotations

import pytest

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.options import Option, count, read, split

DECLARED = (
    Option("input", 512, "prompt tokens", least=1, most=1_000_000),
    Option("skew", 0.5, "how skewed", float),
    Option("arrivals", "poisson", "how they arrive", str, choices=("poisson", "gamma")),
    Option("limit", None, "a limit"),
)


@pytest.mark.parametrize(
    ("text", "head", "pairs"),
    [
        ("chat", "chat", {}),
        ("chat,turns=5,think=2.5", "chat", {"turns": "5", "think": "2.5"}),
        ("mooncake:/a,b:c/d.jsonl,sample=0.1", "mooncake:/a,b:c/d.jsonl", {"sample": "0.1"}),
        ("mooncake:a=b.jsonl", "mooncake:a=b.jsonl", {}),
        ("mooncake:x,y=1,z.jsonl", "mooncake:x,y=1,z.jsonl", {}),
        ("mixture,shared-prefix=1,chat.turns=8", "mixture", {"shared-prefix": "1", "chat.turns": "8"}),
        ("chat, turns=5", "chat", {"turns": "5"}),
    ],
)
def test_only_what_trails_is_an_option(text: str, head: str, pairs: dict[str, str]) -> None:
    """A path may hold commas, colons and equal signs; only trailing key=value parts are options."""
    assert split(text) == (head, pairs)


def test_an_option_given_twice_is_refused() -> None:
    """Nobody has to guess which of the two counts."""
    with pytest.raises(WorkloadError, match="turns is given twice"):
        split("chat,turns=5,turns=6")


@pytest.mark.parametrize(
    ("text", "value"),
    [("512", 512), ("1k", 1000), ("2.5M", 2.5e6), ("1_000", 1000), ("1e3", 1000), (" 7 ", 7)],
)
def test_numbers_take_suffixes(text: str, value: float) -> None:
    """1k, 2.5m and 1e3 are numbers."""
    assert count(text) == value


@pytest.mark.parametrize("text", ["", "k", "ten", "nan", "inf", "1kk", "0x10", "--1"])
def test_what_is_no_number_is_none(text: str) -> None:
    """NaN and infinity are no numbers of anything either."""
    assert count(text) is None


def test_what_is_not_told_has_its_default() -> None:
    """Types are the options' own."""
    options = read("chat", DECLARED, {"input": "1k", "skew": "2"})
    assert options.whole("input") == 1000
    assert options.number("skew") == 2.0
    assert options.text("arrivals") == "poisson"
    assert options.whole_or_none("limit") is None
    assert options.given == {"input", "skew"}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"inptu": "1"}, r"no option 'inptu'; did you mean 'input'\?"),
        ({"requests": "1"}, "no option 'requests'; it is a flag: --requests"),
        ({"input": "many"}, "input=many: a whole number is wanted"),
        ({"input": "1.5"}, "input=1.5: a whole number is wanted"),
        ({"input": "0"}, "input=0: it must be at least 1"),
        ({"input": "2m"}, r"input=2m: it must be at most 1e\+06"),
        ({"skew": "nan"}, "skew=nan: a number is wanted"),
        ({"skew": "-1"}, "skew=-1: it must be at least 0"),
        ({"arrivals": "gama"}, r"arrivals=gama: it is one of poisson, gamma; did you mean 'gamma'\?"),
    ],
)
def test_a_wrong_option_says_what_would_be_right(pairs: dict[str, str], message: str) -> None:
    """The message names workload, option, value and bound."""
    with pytest.raises(WorkloadError, match=message):
        read("chat", DECLARED, pairs)


def test_an_unknown_option_lists_all_with_their_meanings() -> None:
    """Whoever mistypes learns what there is."""
    with pytest.raises(WorkloadError) as raised:
        read("chat", DECLARED, {"zzz": "1"})
    for option in DECLARED:
        assert option.name in str(raised.value)
        assert option.meaning in str(raised.value)
