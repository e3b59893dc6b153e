"""What the metrics page tells of the knowledge of caches, read back by prometheus-client's parser."""

from __future__ import annotations

from typing import Any

from kvroute.router.control.knowledge import SHARING_STATES, Events, Knowledge, Known, Lens
from kvroute.router.control.metrics import Metrics
from kvroute.router.core.canary import Canary, Comparison
from kvroute.router.knowledge.events.counts import StreamCounts
from kvroute.router.knowledge.events.replay import Replays
from kvroute.router.knowledge.events.subscriber import Hearsay
from kvroute.router.knowledge.sharing.figures import Figures
from kvroute.router.knowledge.sharing.store import Trouble
from kvroute.router.knowledge.tokens.encoding import Counts
from tests.router.control.test_metrics import samples


def known(name: str = "a:1", **fields: Any) -> Known:
    """A replica of which nothing is known, but for `fields`."""
    nothing: dict[str, Any] = {"source": "expected", "expected": 0, "observed": {}, "canary": Canary(), "events": None}
    return Known(name=name, **{**nothing, **fields})


def events(**fields: Any) -> Events:
    """A connected stream without a batch, but for `fields`."""
    nothing = {"connected": True, "silence": None, "next": 0, "counts": StreamCounts(), "messages": Hearsay()}
    return Events(**{**nothing, "replays": Replays(), **fields})


def figures(trouble: Trouble | None = None, **numbers: Any) -> Figures:
    """All numbers 0, but for those given."""
    zero = dict.fromkeys(Figures.__struct_fields__, 0)
    return Figures(**{**zero, "failures": dict.fromkeys(Trouble, 0), **numbers, "trouble": trouble})


def told(**knowledge: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of a page with this knowledge."""
    metrics = Metrics()
    metrics.knowledge = lambda: Knowledge(**knowledge)
    return samples(metrics)


def of(**labels: str) -> tuple[tuple[str, str], ...]:
    """Labels as a key of samples."""
    return tuple(sorted(labels.items()))


def test_the_source_of_each_replica_is_one_of_three() -> None:
    """1 for the source that it has, 0 for the others; blocks by medium, the empty ones too."""
    page = told(replicas=[known(source="exact", expected=3, observed={"gpu": 7})])
    sources = {
        name: page["kvroute_replica_knowledge", of(replica="a:1", source=name)] for name in ("exact", "expected")
    }
    assert sources == {"exact": 1, "expected": 0}
    assert page["kvroute_replica_expected_blocks", of(replica="a:1")] == 3
    assert page["kvroute_replica_observed_blocks", of(replica="a:1", medium="gpu")] == 7
    assert page["kvroute_replica_observed_blocks", of(replica="a:1", medium="disk")] == 0


def test_the_canary_shows_what_it_compared() -> None:
    """Totals in tokens, the share of the last requests, and the alarm."""
    canary = Canary()
    for _ in range(20):
        canary.saw(Comparison(100.0, 40.0, 16.0))
    page = told(replicas=[known(canary=canary)])
    here = of(replica="a:1")
    assert page["kvroute_canary_predicted_tokens_total", here] == 2000
    assert page["kvroute_canary_reported_tokens_total", here] == 800
    assert page["kvroute_canary_missing_tokens_total", here] == 1200
    assert page["kvroute_canary_unknown_tokens_total", here] == 0
    assert page["kvroute_canary_disagreement_ratio", here] == 0.6
    assert page["kvroute_canary_alarm", here] == page["kvroute_canary_alarms_total", here] == 1


def test_events_are_shown_where_they_are_followed() -> None:
    """A replica without events, or whose events another router follows, has no such series."""
    stream = events(
        silence=2.5,
        counts=StreamCounts(batches=9, stored=640, gaps=2, lost=1),
        messages=Hearsay(messages=12, malformed=1, foreign=2),
        replays=Replays(asked=4, unanswered=1),
    )
    page = told(replicas=[known("a:1", events=stream), known("b:1")])
    here = of(replica="a:1")
    assert page["kvroute_events_connected", here] == 1
    assert page["kvroute_events_silence_seconds", here] == 2.5
    assert page["kvroute_events_batches_total", here] == 9
    assert page["kvroute_events_stored_blocks_total", here] == 640
    assert (page["kvroute_events_gaps_total", here], page["kvroute_events_lost_total", here]) == (2, 1)
    assert page["kvroute_events_bad_messages_total", here] == 3
    assert page["kvroute_events_replays_total", here] == 4
    assert page["kvroute_events_unanswered_replays_total", here] == 1
    assert not [name for name, labels in page if name.startswith("kvroute_events") and ("replica", "b:1") in labels]


def test_silence_before_the_first_batch_is_not_shown() -> None:
    """Nothing has come: there is no time to tell."""
    page = told(replicas=[known(events=events(connected=False))])
    assert page["kvroute_events_connected", of(replica="a:1")] == 0
    assert ("kvroute_events_silence_seconds", of(replica="a:1")) not in page


def test_lenses_are_told_by_model() -> None:
    """Which one reads its prompts, and for tokens what became of them."""
    token = Lens("m", "token", Counts(known=5, encoded=3), backlog=70, cache_bytes=400, faults={"media": 2})
    page = told(lenses=[token, Lens("n", "text")])
    assert page["kvroute_lens", of(model="m", lens="token")] == page["kvroute_lens", of(model="n", lens="text")] == 1
    assert page["kvroute_lens", of(model="n", lens="token")] == 0
    assert page["kvroute_lens_prompts_total", of(model="m", how="known")] == 5
    assert page["kvroute_lens_prompts_total", of(model="m", how="given_up")] == 0
    assert page["kvroute_lens_unrendered_total", of(model="m", reason="media")] == 2
    assert page["kvroute_lens_backlog_characters", of(model="m")] == 70
    assert page["kvroute_lens_cache_bytes", of(model="m")] == 400
    assert ("kvroute_lens_cache_bytes", of(model="n")) not in page


def test_sharing_shows_its_state_and_what_failed() -> None:
    """One state is 1; failures by kind; plain numbers by name."""
    failed = {**dict.fromkeys(Trouble, 0), Trouble.FULL: 4}
    page = told(sharing=figures(Trouble.FULL, failures=failed, routers=2, lag=0.02, told=11))
    states = {state: page["kvroute_sharing_state", of(state=state)] for state in SHARING_STATES}
    assert states == {**dict.fromkeys(SHARING_STATES, 0), "full": 1}
    assert page["kvroute_sharing_failures_total", of(kind="full")] == 4
    assert page["kvroute_sharing_routers", ()] == 2
    assert page["kvroute_sharing_lag_seconds", ()] == 0.02
    assert page["kvroute_sharing_told_records_total", ()] == 11
    assert told(sharing=figures())["kvroute_sharing_state", of(state="ok")] == 1


def test_all_figures_of_the_sharing_are_shown() -> None:
    """Each number appears as some sample: none is forgotten when one is added."""
    names = [name for name in Figures.__struct_fields__ if name not in ("trouble", "since", "failures")]
    page = told(sharing=figures(None, **{name: 1000 + at for at, name in enumerate(names)}))
    shown = {value for (name, _), value in page.items() if name.startswith("kvroute_sharing")}
    assert {1000.0 + at for at in range(len(names))} <= shown


def test_what_is_gone_or_not_there_has_no_series() -> None:
    """A replica that left, a model that nobody serves any more, a router that shares nothing."""
    families = ("kvroute_canary", "kvroute_events", "kvroute_lens", "kvroute_sharing", "kvroute_replica")
    assert not [name for name, _ in told() if name.startswith(families)]
