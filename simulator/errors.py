"""What can be wrong with what the simulator was given; each message names the fault and what to do."""

from __future__ import annotations


class SimulatorError(Exception):
    """Something that the user can mend."""


class WorkloadError(SimulatorError):
    """A workload's name, its options, or the file behind it: file, line and reason."""


class FleetError(SimulatorError, ValueError):
    """A fleet, preset or limit that cannot be simulated."""
