"""The page: one file that needs nothing else, and asks nobody for anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import msgspec
import orjson

from kvroute import __version__
from kvroute.simulator.errors import SimulatorError
from kvroute.simulator.reports.html import balance, caches, capacity, latencies, overtime
from kvroute.simulator.reports.html.curve import Curve
from kvroute.simulator.reports.html.figure import Entries, Figure, Section
from kvroute.simulator.reports.html.notes import notes as all_notes
from kvroute.simulator.reports.html.notes import scenario_words, without_folders
from kvroute.simulator.reports.html.numbers import tables
from kvroute.simulator.reports.html.run import Run
from kvroute.simulator.reports.html.tiles import TONES, Tile, tiles
from kvroute.simulator.reports.html.together import Together
from kvroute.simulator.reports.html.together import section as tables_of_means
from kvroute.simulator.reports.html.together import tiles as means
from kvroute.simulator.reports.json import rounded
from kvroute.simulator.reports.table import REGIMES

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none';"
    " form-action 'none'"
)
"""The browser refuses whatever the page would fetch, plotly.js's own wishes included."""
OF_ONE = ("Workload", "Requests")
"""What may differ from run to run, in the words on the scenario."""


def page(
    title: str,
    runs: Sequence[Run],
    curve: Curve | None = None,
    notes: Sequence[str] = (),
    *,
    headline: Sequence[Tile] = (),
    together: Together | None = None,
) -> str:
    """A page about these runs.

    Args:
        runs: in the order to be shown, each with its own label; at least one.
        curve: what plans and comparisons over several loads found.
        notes: what else must be known to read the numbers rightly, a sentence each.
        headline: tiles before the usual ones: the answer, if there was a question.
        together: means over many runs of each policy; the tiles and the first table are then of those, and `runs` are
            one of them each, and said to be.

    Raises:
        SimulatorError: plotly is not installed.
        ValueError: there are no runs, or two have the same label.
    """
    title = without_folders(title)
    labels = [run.label for run in runs]
    if not labels or len(set(labels)) < len(labels):
        raise ValueError("a page needs runs, with labels that tell them apart")
    entries = Entries([*labels, *(one.label for one in curve.series if curve)] if curve else labels)
    sections = _sections(runs, curve, entries)
    figures = [figure for one in sections for figure in _all(one)]
    alone = "" if together is None else together.alone
    body = "".join(
        (
            _head(title, runs, together),
            _tiles([*headline, *(tiles(runs) if together is None else means(together))]),
            "" if together is None else tables_of_means(together),
            _legend(entries, _regimes(runs, together)),
            *(_section(one, alone) for one in sections),
            f'<section id="numbers"><h2>All numbers</h2>{tables(runs, curve, alone)}</section>',
            _notes(all_notes(runs, notes, alone)),
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n"
        f'<link rel="icon" href="data:,">\n<style>{_asset("page.css")}</style>\n</head>\n<body>\n{body}\n'
        f'<script type="application/json" id="figures">{_embedded(figures)}</script>\n'
        f"<script>{plotly_js()}</script>\n<script>{_asset('page.js')}</script>\n</body>\n</html>\n"
    )


def plotly_js() -> str:
    """plotly.js, whole.

    Raises:
        SimulatorError: the extra is not installed; says how to.
    """
    try:
        code = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text("utf-8")
    except ModuleNotFoundError:
        raise SimulatorError("pages need plotly: pip install 'kvroute[report]'") from None
    return code.replace("</script", "<\\/script")


def _sections(runs: Sequence[Run], curve: Curve | None, entries: Entries) -> list[Section]:
    found = [capacity.section(curve, entries)] if curve else []
    found += [latencies.section(runs, entries), caches.section(runs, entries)]
    if any(run.summary.replicas > 1 for run in runs):
        found.append(balance.section(runs, entries))
    over_time = overtime.section(runs)
    return [*found, over_time] if over_time else found


def _all(section: Section) -> list[Figure]:
    return [*section.figures, *(figure for _, _, figures in section.runs for figure in figures)]


def _head(title: str, runs: Sequence[Run], together: Together | None) -> str:
    told = scenario_words(runs)
    if together is not None:
        told = [("Means over", together.over), *((f"{what} ({together.alone})" if what in OF_ONE else what, said)
                for what, said in told if what != "Seed")]  # fmt: skip
    words = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(said)}</dd></div>" for what, said in told)
    return (
        f'<header><h1>{escape(title)}</h1><span class="made">kvroute {escape(__version__)}, simulated</span>'
        '<button id="theme" type="button">Theme: auto</button></header>'
        f'<noscript><p class="card note">The plots need JavaScript; all numbers are in the tables below.</p></noscript>'
        f'<dl class="card scenario">{words}</dl>'
    )


def _tiles(found: Sequence[Tile]) -> str:
    made = "".join(
        f'<div class="tile {tile.tone}"><span>{escape(tile.name)}</span><b>{escape(tile.value)}</b>'
        f"<small>{escape(tile.about)}</small></div>"
        for tile in found
    )
    columns = len(found) if len(found) <= 7 else (len(found) + 1) // 2
    return f'<section class="tiles" style="--columns:{columns}" aria-label="Headline numbers">{made}</section>'


def _regimes(runs: Sequence[Run], together: Together | None) -> dict[str, str]:
    """Where each run stands to the knee; of many the worst."""
    found = {run.label: str(run.summary.regime) for run in runs}
    return found if together is None else found | {cell.policy: cell.regime for cell in together.cells}


def _legend(entries: Entries, regimes: Mapping[str, str]) -> str:
    """What colour is what; each entry switches its lines on and off in all plots."""
    if len(entries.labels) < 2:
        return ""
    made = "".join(_chip(place, label, entries, regimes.get(label)) for place, label in enumerate(entries.labels))
    return f'<nav class="legend" aria-label="Runs; click to hide or show">{made}</nav>'


def _chip(place: int, label: str, entries: Entries, regime: str | None) -> str:
    arrays = {"solid": "", "dash": "5 3", "dot": "2 3", "dashdot": "6 3 2 3"}
    line = (
        '<svg width="22" height="8" aria-hidden="true"><line x1="1" y1="4" x2="21" y2="4" stroke-width="3"'
        f' stroke="var(--{entries.colour(label)[1:]})" stroke-dasharray="{arrays[entries.dash(label)]}"/></svg>'
    )
    badge = f'<em class="{TONES[regime]}">{REGIMES[regime].lower()}</em>' if regime and regime != "below" else ""
    return f'<button type="button" data-entry="{place}" aria-pressed="true">{line}{escape(label)}{badge}</button>'


def _section(section: Section, alone: str) -> str:
    """`alone`: which runs are shown, where there were more; capacity curves are of all."""
    title = f"{section.title}: {alone}" if alone and section.name != "capacity" else section.title
    plots = _plots(section.figures, "") if section.figures else ""
    choice = ""
    if len(section.runs) > 1:
        options = "".join(f'<option value="{number}">{escape(label)}</option>' for number, label, _ in section.runs)
        choice = f'<label class="choice">Run <select data-shows="{section.name}">{options}</select></label>'
    for place, (number, _, own) in enumerate(section.runs):
        which = f'data-of="{section.name}" data-run="{number}"' + (" hidden" if place else "")
        plots += _plots(own, " " + which)
    return (
        f'<section id="{section.name}"><div class="lead"><h2>{escape(title)}</h2>'
        f'<p class="how">{escape(section.text)}</p></div>{choice}{plots}</section>'
    )


def _plots(figures: Sequence[Figure], which: str) -> str:
    """Three in a row, or two where that leaves no gap."""
    narrow = sum(not one.wide for one in figures)
    pairs = " pairs" if narrow in (2, 4) else ""
    return f'<div class="plots{pairs}"{which}>{"".join(map(_figure, figures))}</div>'


def _figure(figure: Figure) -> str:
    wide = " wide" if figure.wide else ""
    return (
        f'<figure class="card{wide}"><figcaption>{escape(figure.title)}<button type="button"'
        f' data-save="plot-{figure.name}" title="Save as PNG" aria-label="Save as PNG: {escape(figure.title)}">&#8681;'
        f"</button></figcaption>"
        f'<div class="plot" id="plot-{figure.name}" style="height:{figure.height}px" role="img"'
        f' aria-label="{escape(figure.told or figure.title)}"></div></figure>'
    )


def _notes(found: Sequence[str]) -> str:
    made = "".join(f"<li>{escape(note)}</li>" for note in found)
    return f'<section id="notes"><h2>How to read this</h2><ul class="card">{made}</ul></section>'


def _embedded(figures: Sequence[Figure]) -> str:
    """Data and layouts by name; `<` is written so that no text in it can end the script."""
    plots: dict[str, Any] = {one.name: {"data": one.data, "layout": one.layout} for one in figures}
    return orjson.dumps(rounded(msgspec.to_builtins(plots))).decode().replace("<", "\\u003c")


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
