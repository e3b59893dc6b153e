"""Made-up results of runs, for searches that make none."""

from __future__ import annotations

from typing import Any

import msgspec

from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.search.case import Case, Source, run_case

_ONE: list[Summary] = []


def summary(**changes: Any) -> Summary:
    """A real run's summary with some figures replaced; `ttft_p90` stands for the one in its distribution."""
    if not _ONE:
        case = Case(
            "one", Source("shared-prefix,input=300,output=5,prefix=256", requests=4), Scenario((Kind(),)), "ttft_p90<1s"
        )
        _ONE.append(run_case(case)[1])
    one = _ONE[0]
    p90 = changes.pop("ttft_p90", None)
    if p90 is not None:
        assert one.ttft is not None
        changes["ttft"] = msgspec.structs.replace(one.ttft, p90=p90)
    return msgspec.structs.replace(one, **changes)
