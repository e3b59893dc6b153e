"""One self-contained page with plots, made to be shown to others; it carries plotly.js, which draws them."""

from kvroute.simulator.reports.html.curve import Curve, CurvePoint, Series
from kvroute.simulator.reports.html.page import page
from kvroute.simulator.reports.html.run import Detail, Run
from kvroute.simulator.reports.html.together import Together

__all__ = ["Curve", "CurvePoint", "Detail", "Run", "Series", "Together", "page"]
