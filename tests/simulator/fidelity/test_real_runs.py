"""The recorded runs of vLLM 0.19, where they are: the goals are met on requests that were not fitted on."""

from __future__ import annotations

import pytest

from kvroute.simulator.fidelity.fit import Evidence, fit, times
from kvroute.simulator.fidelity.measures import compare
from kvroute.simulator.fidelity.priors import priors
from kvroute.simulator.fidelity.recording import read
from kvroute.simulator.fidelity.reproduce import rehearsals
from kvroute.simulator.fidelity.splits import splits
from tests.simulator.fidelity.recorded import REAL

RUNS = ["RTX4090/Llama-3.1-8B", "RTXPRO6000/Qwen3-32B"]


@pytest.mark.parametrize("name", RUNS)
def test_goals_are_met_on_what_was_not_fitted_on(name: str) -> None:
    """Fitted on every other request, judged on the rest; `kvroute fidelity` tries three more ways."""
    if not REAL.exists():
        pytest.skip("the recorded runs are not here (../shared/data/ground_truth/vllm019_runs)")
    run = read(REAL / name / "vllm", REAL)
    split = splits(len(run.requests))[0]
    ways = rehearsals(run)
    assert [way.depth for way in ways] == [2]
    found = fit(ways, Evidence(run.requests, split.fit, priors(run)))
    played = ways[0].play(found.step)
    missed = {k: m.error for k, m in compare(run.requests, times(played), split.judge).items() if m.met is False}
    assert not missed
    assert (played.preemptions > 0) == ("4090" in name)
