"""The recorders behind the metrics: plain numbers, resolved once per model and replica and kept by the caller."""

from __future__ import annotations

from kvroute.router.control.histogram import SHORT_SECONDS, Histogram


class RequestSeries:
    """Everything counted for one (model, replica). Increment its attributes directly."""

    __slots__ = (
        "aborted",
        "best_cached_tokens",
        "completed",
        "failed",
        "in_flight",
        "inter_chunk",
        "predicted_cached_tokens",
        "predicted_ttft",
        "prompt_tokens",
        "reported_cached_tokens",
        "reported_prompt_tokens",
        "retries",
        "total",
        "ttft",
        "ttft_error",
    )

    def __init__(self) -> None:
        self.completed = 0
        """Requests whose whole reply was relayed, whatever its status."""
        self.failed = 0
        """Requests that the router answered with an error of its own, or whose reply it cut."""
        self.aborted = 0
        """Requests whose client went away."""
        self.in_flight = 0
        self.retries = 0
        """Attempts there that failed and were followed by another."""
        self.prompt_tokens = 0
        """Prompt tokens of the decisions made, as the router counts them."""
        self.predicted_cached_tokens = 0
        """Of those, believed to be cached at the chosen replica."""
        self.best_cached_tokens = 0
        """Of those, cached at the replica that held most: the difference to the prediction is the regret."""
        self.reported_prompt_tokens = 0
        """Prompt tokens of replies that told their cached tokens."""
        self.reported_cached_tokens = 0
        """Cached tokens that those replies told."""
        self.ttft = Histogram()
        self.predicted_ttft = Histogram()
        self.ttft_error = Histogram()
        """|predicted - observed| [seconds]."""
        self.inter_chunk = Histogram()
        self.total = Histogram()


class RouterSeries:
    """What is counted once for the whole router."""

    __slots__ = ("answered", "budget_spent", "decision", "loop_lag", "poisoned")

    def __init__(self) -> None:
        self.answered: dict[int, int] = {}
        """Requests that the router answered itself with an error, by status."""
        self.poisoned = 0
        """Requests that two endpoints failed on."""
        self.budget_spent = 0
        """Tries not made because the retry budget was spent."""
        self.decision = Histogram(SHORT_SECONDS)
        """Hash, look-up, decision and reservation [seconds]."""
        self.loop_lag = Histogram(SHORT_SECONDS)
        """How late the event loop ran a timer [seconds]."""


class LineCounts:
    """What is counted of a log's lines."""

    __slots__ = ("dropped", "written")

    def __init__(self) -> None:
        self.written = 0
        self.dropped = 0
        """Lines that could not be written."""
