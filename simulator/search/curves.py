"""What searches found, as curves that a page can show."""

from __future__ import annotations

from kvroute.simulator.reports.cells import Figure
from kvroute.simulator.reports.html.curve import AXES, REPLICAS, Curve, CurvePoint, Series
from kvroute.simulator.reports.knee import Regime
from kvroute.simulator.search.capacity import Plan
from kvroute.simulator.search.comparison import Comparison
from kvroute.simulator.slo import Slo


def curve_of_comparison(comparison: Comparison) -> Curve | None:
    """Policies over load; None of a single load."""
    if len(comparison.rows) < 2:
        return None
    knob = next((knob for knob in AXES if getattr(comparison.rows[0].level, knob) is not None), "speedup")
    lines: dict[str, list[CurvePoint]] = {}
    for row in comparison.rows:
        x = getattr(row.level, knob)
        for cell in row.cells:
            met = None if cell.slo_met_runs is None else cell.slo_met_runs == cell.runs
            point = CurvePoint(x or 0.0, cell.figures, _regime(cell.regime), met)
            lines.setdefault(cell.policy, []).append(point)
    knee = comparison.knee
    marks = [] if knee is None else [(knee.at, f"knee of {knee.policy}")]
    slo = Slo.parse(comparison.slo) if comparison.slo else None
    return Curve(AXES[knob], [Series(*line) for line in lines.items()], slo, marks)


def curve_of_plan(plan: Plan) -> Curve:
    """Makes of fleet over their number, or over load where that was the question."""
    by_load = any(answer.knob is not None for answer in plan.answers)
    series, marks = [], []
    for answer in plan.answers:
        points = []
        for point in answer.curve:
            x = (point.load or 0.0) if by_load else float(point.replicas)
            figures = {name: Figure(mean, None) for name, mean in point.figures.items()}
            points.append(CurvePoint(x, figures, _regime(point.regime), point.met))
        series.append(Series(answer.title, points))
        found = answer.load if by_load else answer.replicas
        if found is not None:
            said = "" if len(plan.answers) > 1 else "takes " if by_load else "enough: "
            marks.append((float(found), f"{said}{found:g}"))
    knobs = {answer.knob for answer in plan.answers}
    axis = next((AXES[knob] for knob in AXES if knob in knobs), REPLICAS)
    return Curve(axis, series, Slo.parse(plan.slo), marks)


def _regime(name: str) -> Regime:
    return "beyond" if name == "beyond" else "at" if name == "at" else "below"
