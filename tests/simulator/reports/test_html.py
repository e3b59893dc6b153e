"""The page: whole, self-contained, and safe to show."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import msgspec
import orjson
import pytest

from kvroute.simulator.errors import SimulatorError
from kvroute.simulator.reports.cells import Figure
from kvroute.simulator.reports.html import Curve, CurvePoint, Run, Series, page
from kvroute.simulator.reports.html.curve import RATE
from kvroute.simulator.reports.html.notes import without_folders
from kvroute.simulator.reports.html.page import plotly_js
from kvroute.simulator.reports.html.run import thinned
from kvroute.simulator.reports.html.tiles import Tile
from kvroute.simulator.reports.summary import summarise
from kvroute.simulator.runs.outcome import Outcome, Sample
from kvroute.simulator.slo import Slo
from tests.simulator.reports.outcomes import queue, scenario

SLO = Slo.parse("ttft_p90<2s,tpot_p90<50ms")
VOID = {"meta", "link", "br", "line"}


class Reading(HTMLParser):
    """Follows the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Void elements are never closed."""
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Each closes the last that was opened."""
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data: str) -> None:
        """What people read, scripts and styles apart."""
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


def read(html: str) -> Reading:
    """The page as a browser would take it apart."""
    found = Reading()
    found.feed(html)
    found.close()
    return found


def sampled(rho: float, seed: int, replicas: int = 4) -> Outcome:
    """A run with a fleet over time."""
    run = queue(rho, 400, seed, replicas=replicas)
    run.samples = [Sample(float(t), [1] * replicas, [t % 3] * replicas, [0.1 * (t % 10)] * replicas) for t in range(50)]
    return run


def made(label: str, rho: float, replicas: int = 4) -> Run:
    """A run of a policy of that name."""
    fleet, run = scenario(replicas, label), sampled(rho, 1, replicas)
    return Run.of(label, fleet, summarise(run, fleet, SLO), run)


def curve() -> Curve:
    """Two policies over three loads, the last of which is too much."""

    def point(x: float, ttft: float) -> CurvePoint:
        figures = {"ttft_p90": Figure(ttft, 0.1), "tpot_p90": Figure(0.01, None), "goodput": Figure(x, None)}
        return CurvePoint(x, figures, "below" if x < 3 else "beyond", x < 3)

    lines = [Series(name, [point(1.0, 0.2), point(2.0, 0.4), point(3.0, 9.0)]) for name in ("latency", "other")]
    return Curve(RATE, lines, SLO, [(2.5, "knee of latency")])


PAGES = {
    "one": lambda: page("One run", [made("latency", 0.7)]),
    "one replica": lambda: page("Alone", [made("latency", 0.7, 1)]),
    "many": lambda: page("Two runs", [made("latency", 0.7), made("other", 1.5)], curve(), ["Said on top."]),
    "numbers only": lambda: page("No detail", [msgspec.structs.replace(made("latency", 0.7), detail=None)]),
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_asks_nobody_for_anything(name: str) -> None:
    """Every tag is closed, every id is there once, and nothing is to be fetched."""
    html = PAGES[name]()
    found = read(html)
    assert found.faults == []
    assert found.open == []
    assert len(set(found.ids)) == len(found.ids)
    for tag, attribute, value in found.attributes:
        if attribute in ("src", "href", "action", "data", "srcset", "poster"):
            assert value == "data:,", (tag, attribute, value)
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"url\(|@import|https?:", style)
    assert "default-src 'none'" in html
    assert len(html) < 8e6


@pytest.mark.parametrize("name", PAGES)
def test_each_plot_has_its_data_and_its_place(name: str) -> None:
    """No plot without data, no data without a plot, and words for those who cannot see it."""
    html = PAGES[name]()
    found = read(html)
    data = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    figures = orjson.loads(data[1])
    assert sorted(f"plot-{figure}" for figure in figures) == sorted(one for one in found.ids if one.startswith("plot-"))
    assert all(figure["data"] for figure in figures.values())
    spoken = [value for tag, attribute, value in found.attributes if attribute == "aria-label" and tag == "div"]
    assert len(spoken) == len(figures)
    assert all(spoken)


def test_all_sections_are_there() -> None:
    """Capacity, latency, caches, balance, over time, numbers and notes."""
    found = read(PAGES["many"]())
    for section in ("capacity", "latency", "cache", "balance", "over-time", "numbers", "notes"):
        assert section in found.ids
    text = " ".join(found.text)
    for said in ("Two runs", "Said on top.", "saturated", "Speed of test", "Saturated runs have no steady state"):
        assert said in text
    alone = read(PAGES["one replica"]())
    assert "balance" not in alone.ids
    assert "over-time" not in read(PAGES["numbers only"]()).ids
    assert "plot-cdf-tpot" not in alone.ids, "answers of a single token have no TPOT"


def test_what_users_name_is_text_and_never_code() -> None:
    """Titles, labels and notes with tags in them show as they are written."""
    evil = "</script><script>alert(1)</script><b>&"
    run = made("latency", 0.7)
    evils = [msgspec.structs.replace(run, label=evil), run]
    html = page(evil, evils, None, [evil], headline=[Tile(evil, evil, evil)])
    assert read(html).faults == []
    assert "<script>alert" not in html
    assert html.count("</script>") == 3
    assert " ".join(read(html).text).count("alert(1)") >= 4


def test_the_same_runs_make_the_same_page() -> None:
    """To the last byte."""
    assert PAGES["many"]() == PAGES["many"]()


def test_labels_must_tell_runs_apart() -> None:
    """Two runs of one label would share their colour and their switch."""
    with pytest.raises(ValueError, match="labels"):
        page("Twice", [made("latency", 0.7), made("latency", 0.7)])


def test_without_plotly_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra's name, ready to be typed."""
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(SimulatorError, match=r"pip install 'kvroute\[report\]'"):
        plotly_js()


def test_thinning_keeps_peaks() -> None:
    """A single moment of trouble survives."""
    samples = [Sample(float(t), [1], [99 if t == 501 else 0], [0.1]) for t in range(1000)]
    kept = thinned(samples, 100)
    assert len(kept) == 100
    assert max(one.waiting[0] for one in kept) == 99
    assert kept[-1].time == 999.0


def test_folders_are_left_out_of_names() -> None:
    """A page that is passed on tells nothing of the machine it was made on."""
    assert without_folders("mooncake:/data/traces/a.jsonl,sample=0.5") == "mooncake:a.jsonl,sample=0.5"
    assert without_folders("shared-prefix,input=512") == "shared-prefix,input=512"
