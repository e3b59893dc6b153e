"""Loading scorers and policies by name."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvroute.router.errors import KvrouteError
from kvroute.router.errors import PluginError as RoutersPluginError
from kvroute.scorers.errors import PluginError
from kvroute.scorers.guard import GuardedPolicy
from kvroute.scorers.pipeline import Pipeline
from kvroute.scorers.plugins import POLICIES, SCORERS, PolicySpec, ScorerSpec, load_policy, load_scorer
from kvroute.scorers.testing import candidates, check_policy, check_scorer, request

THEIRS = """
from __future__ import annotations
import numpy as np

class Good:
    part = "cost"
    def __init__(self, *, size: int, ratio: float = 1.0, tags: list[str] | None = None) -> None:
        if size < 0:
            raise ValueError("size must not be negative")
        self.size, self.ratio, self.tags = size, ratio, tags
    def seconds(self, request, candidates, now):
        return np.full(len(candidates), self.ratio)

class NoPart:
    def seconds(self, request, candidates, now): ...

class WrongPart:
    part = "end"
    def seconds(self, request, candidates, now): ...

class Failing:
    part = "cost"
    def seconds(self, request, candidates, now):
        raise RuntimeError("no idea")

class Unreadable:
    part = "cost"
    def __init__(self, *, size: NotImported = 1): ...
    def seconds(self, request, candidates, now): ...

class Garbled:
    part = "cost"
    def __init__(self, *, size: "int |", other: "np.nothing" = 1): ...
    def seconds(self, request, candidates, now): ...

class Divided:
    part = "cost"
    def __init__(self, *, size: "1 / 0" = 1): ...
    def seconds(self, request, candidates, now): ...

class Misstated:
    part = "cost"
    __signature__ = "size"
    def seconds(self, request, candidates, now): ...

in_c = iter

class Chooser:
    def choose(self, request, candidates, now, rng):
        return 99

number = 3
"""
POINTS = """
[kvroute.scorers]
good = theirs:Good
no-part = theirs:NoPart
wrong-part = theirs:WrongPart
failing = theirs:Failing
unreadable = theirs:Unreadable
garbled = theirs:Garbled
divided = theirs:Divided
misstated = theirs:Misstated
in-c = theirs:in_c
missing = theirs:Missing
broken = theirs_broken:Broken
number = theirs:number
queue = theirs:Good

[kvroute.policies]
chooser = theirs:Chooser
no-choose = theirs:Failing
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another distribution, `their-package`, is installed."""
    (tmp_path / "theirs.py").write_text(THEIRS)
    (tmp_path / "theirs_broken.py").write_text("raise OSError('no such device')")
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("theirs", "theirs_broken"):
        monkeypatch.delitem(sys.modules, module, raising=False)


@pytest.mark.parametrize("name", sorted({point.name for point in entry_points(group=POLICIES)}))
def test_every_policy_loads_and_conforms(name: str) -> None:
    """Each policy of ours comes through the entry points and passes the conformance kit, guarded and bare."""
    check_policy(lambda: load_policy(name))
    check_policy(next(iter(entry_points(group=POLICIES, name=name))).load())


@pytest.mark.parametrize("name", sorted({point.name for point in entry_points(group=SCORERS)}))
def test_every_scorer_loads_and_conforms(name: str) -> None:
    """Each scorer of ours comes through the entry points and passes the conformance kit."""
    check_scorer(load_scorer(ScorerSpec(name)).scorer)


def test_a_named_sum_a_named_rule_and_a_list() -> None:
    """A name gives a pipeline or a guarded rule; a list gives a pipeline of those scorers and `role`."""
    assert isinstance(load_policy(), Pipeline)
    assert isinstance(load_policy("lmetric"), GuardedPolicy)
    listed = load_policy(PolicySpec(scorers=(ScorerSpec("queue", 2.0), ScorerSpec("role", 0.0))))
    assert isinstance(listed, Pipeline)
    assert [(one.name, one.weight, one.distribution) for one in listed.scorers] == [("queue", 2.0, "kvroute")]


def test_only_what_is_named_is_imported() -> None:
    """Other policies' modules stay out of the process."""
    program = (
        "import sys; from kvroute.scorers.plugins import load_policy; load_policy('round-robin');"
        "print(sorted(m for m in sys.modules if m.startswith('kvroute.scorers.baselines.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['kvroute.scorers.baselines.round_robin']"


@pytest.mark.usefixtures("theirs")
def test_options_arrive_as_their_annotations_say() -> None:
    """Numbers and lists of a configuration become the constructor's types."""
    made: Any = load_scorer(ScorerSpec("good", 0.5, {"size": 3, "ratio": 2, "tags": ["a"]}))
    assert (made.weight, made.name, made.distribution) == (0.5, "good", "their-package")
    assert (made.scorer.size, made.scorer.ratio, made.scorer.tags) == (3, 2.0, ["a"])
    assert type(made.scorer.ratio) is float


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("good", {}, "scorer 'good' (their-package) needs the option 'size'"),
        ("good", {"size": 1, "sise": 2}, "scorer 'good' (their-package) has no option 'sise'; it has: size, "),
        ("good", {"size": "big"}, "scorer 'good' (their-package), option 'size': Expected `int`, got `str`"),
        ("good", {"size": -1}, "scorer 'good' (their-package) refuses its options: ValueError: size must not"),
        ("failing", {"size": 1}, "scorer 'failing' (their-package) has no option 'size'; it has none"),
        ("unreadable", {"size": 1}, "scorer 'unreadable' (their-package): its annotations cannot be read: "),
        ("garbled", {"size": 1}, "scorer 'garbled' (their-package): its annotations cannot be read: SyntaxError: "),
        ("divided", {"size": 1}, "scorer 'divided' (their-package): its annotations cannot be read: ZeroDivisionError"),
        ("misstated", {}, "scorer 'misstated' (their-package): its parameters cannot be read: "),
        ("in-c", {"size": 1}, "scorer 'in-c' (their-package): its parameters cannot be read: "),
        ("no-part", {}, "scorer 'no-part' (their-package) needs an attribute part and a method seconds"),
        ("wrong-part", {}, "scorer 'wrong-part' (their-package): part must be 'start' or 'cost', not 'end'"),
        ("missing", {}, "scorer 'missing' (their-package) cannot be loaded: AttributeError: "),
        ("broken", {}, "scorer 'broken' (their-package) cannot be loaded: OSError: no such device"),
        ("number", {}, "scorer 'number' (their-package) is not callable"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("theirs")
def test_what_is_wrong_names_its_distribution(name: str, options: dict[str, Any], message: str) -> None:
    """Start-up stops with the plugin, its distribution and the option."""
    with pytest.raises(PluginError) as caught:
        load_policy(PolicySpec("latency", scorers=(ScorerSpec(name, options=options),)))
    assert str(caught.value).startswith(message)
    assert caught.value.distribution == "their-package"


@pytest.mark.usefixtures("theirs")
def test_one_name_in_two_packages_is_refused() -> None:
    """Which of the two ran would depend on the order of the path."""
    with pytest.raises(PluginError, match="scorer 'queue' is offered by kvroute and their-package"):
        load_scorer(ScorerSpec("queue"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("latancy", "no policy is called 'latancy'; there are: .*latency"),
        (PolicySpec(), "a policy needs a name or a list of scorers"),
        (PolicySpec("chwbl", scorers=(ScorerSpec("wait"),)), "policy 'chwbl' .kvroute. is not a sum"),
        (PolicySpec("latency", scorers=(ScorerSpec("wait", -1.0),)), "the weight of wait must be a number >= 0"),
        (PolicySpec("latency", {"queue": float("nan")}), "refuses its options: ValueError: the weight of queue"),
        (PolicySpec(scorers=(ScorerSpec("wait"), ScorerSpec("wait"))), "two scorers have the same name"),
    ],
)
def test_a_wrong_spec_is_refused(spec: str | PolicySpec, message: str) -> None:
    """What cannot be meant stops start-up."""
    with pytest.raises(PluginError, match=message):
        load_policy(spec)


@pytest.mark.usefixtures("theirs")
def test_a_policy_without_choose_is_refused() -> None:
    """A scorer in the policies' group is no policy."""
    with pytest.raises(PluginError, match=r"policy 'no-choose' .their-package. has no method choose"):
        load_policy("no-choose")


@pytest.mark.usefixtures("theirs")
def test_faults_at_run_time_are_reported_by_distribution() -> None:
    """A loaded scorer or policy that fails is reported to `on_fault`, and the default's choice stands."""
    faults: list[tuple[str, str, str]] = []
    given = candidates(3, hit_tokens=[0, 900, 0])
    for spec in (PolicySpec("latency", scorers=(ScorerSpec("failing"),)), "chooser"):
        policy = load_policy(spec, lambda *fault: faults.append(fault))
        assert policy.choose(request(), given, 0.0, np.random.default_rng(0)) == 1
    assert faults == [
        ("failing", "their-package", "raised RuntimeError: no idea"),
        ("chooser", "their-package", "chose 99 of 3 candidates"),
    ]


def test_the_routers_tree_of_errors_has_it() -> None:
    """Whoever catches the router's errors catches this one too."""
    assert RoutersPluginError is PluginError
    assert issubclass(PluginError, KvrouteError)
