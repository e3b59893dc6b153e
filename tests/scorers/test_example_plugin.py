"""The example package installs and runs like anybody's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "kvroute-zone-scorer"
PROGRAM = """
import msgspec
import numpy as np
import yaml
from kvroute.router.config import Config
from kvroute.scorers.plugins import PolicySpec, ScorerSpec, load_policy
from kvroute.scorers.testing import candidates, check_scorer, request

policy = load_policy(msgspec.convert(yaml.safe_load(configuration), Config).policy_spec())
zone = policy.scorers[-1]
check_scorer(zone.scorer)
given = candidates(3, hit_tokens=[900, 0, 0], labels=[{"zone": "a"}, {"zone": "b"}, {"zone": "a"}])
print(zone.distribution, policy.choose(request(), given, 0.0, np.random.default_rng(0)))
print(policy.breakdown(request(), given, 0.0)["zone"].tolist())
try:
    load_policy(PolicySpec("latency", scorers=(ScorerSpec("zone"),)))
except Exception as error:
    print(error)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the example is installed in, built from a copy so that the checkout stays clean."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*install, "--target", str(target), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def test_the_example_runs_in_the_pipeline(installed: Path) -> None:
    """Found by its entry point, configured as its README says, it passes the kit and keeps a request in its zone."""
    configuration = (EXAMPLE / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    program = f"import sys; sys.path.insert(0, {str(installed)!r})\nconfiguration = {configuration!r}\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "kvroute-zone-scorer 1",
        "[0.5, 0.0, 0.5]",
        "scorer 'zone' (kvroute-zone-scorer) needs the option 'home'",
    ]
