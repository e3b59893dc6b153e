"""The state machine that ejects endpoints."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.fleetwatch.breaker import Breaker, Limits, State

LIMITS = Limits(failures=3, base=0.5, cap=4.0, starting_cap=1.0, probation=10.0)


def healthy() -> Breaker:
    breaker = Breaker(LIMITS)
    assert breaker.check_succeeded(0.0)
    return breaker


def recover(breaker: Breaker) -> float:
    """Let the trial that is due succeed; answers its time."""
    now = breaker.retry_at
    breaker.begin_trial(now)
    assert breaker.check_succeeded(now)
    return now


def test_it_starts_unproven() -> None:
    """No endpoint is healthy before a check said so, and looks at it stay frequent."""
    breaker = Breaker(LIMITS)
    assert breaker.state is State.STARTING
    for now in range(0, 100, 2):
        assert not breaker.check_failed(float(now), decisive=True)
        assert breaker.retry_at - now <= LIMITS.starting_cap
    assert breaker.check_succeeded(100.0)
    assert breaker.healthy


def test_the_third_failure_in_a_row_ejects() -> None:
    """A success in between starts the count anew."""
    breaker = healthy()
    assert not breaker.request_failed(1.0)
    assert not breaker.request_failed(1.0)
    breaker.request_succeeded()
    assert not breaker.request_failed(2.0)
    assert not breaker.request_failed(2.0)
    assert breaker.request_failed(2.0)
    assert breaker.state is State.EJECTED


def test_a_refused_check_ejects_at_once() -> None:
    """Where nobody listens there is nothing to wait for."""
    assert healthy().check_failed(1.0, decisive=True)


def test_a_failed_request_and_a_failed_check_are_enough() -> None:
    """A host that went dark refuses nothing: waiting for more requests to time out would cost clients."""
    breaker = healthy()
    assert not breaker.request_failed(1.0)
    assert breaker.check_failed(2.0, decisive=False)


def test_slow_checks_eject_after_three_unless_requests_succeed() -> None:
    """A busy engine whose requests are answered is not dead."""
    breaker = healthy()
    assert [breaker.check_failed(1.0, decisive=False) for _ in range(2)] == [False, False]
    breaker.request_succeeded()
    assert [breaker.check_failed(2.0, decisive=False) for _ in range(3)] == [False, False, True]


def test_a_good_check_does_not_excuse_failing_requests() -> None:
    """Requests may fail on a path that the check does not take."""
    breaker = healthy()
    breaker.request_failed(1.0)
    breaker.check_succeeded(1.1)
    breaker.request_failed(1.2)
    breaker.check_succeeded(1.3)
    assert breaker.request_failed(1.4)


def test_stale_good_news_does_not_end_an_ejection() -> None:
    """Only the trial's own check counts, and no trial begins before its time."""
    breaker = healthy()
    breaker.check_failed(1.0, decisive=True)
    breaker.request_succeeded()
    breaker.begin_trial(1.0)
    assert not breaker.check_succeeded(1.1)
    assert not breaker.healthy
    breaker.begin_trial(breaker.retry_at)
    assert breaker.state is State.TRIAL
    assert breaker.check_succeeded(2.0)


def test_failed_trials_wait_twice_as_long_up_to_the_cap() -> None:
    """0.5, 1, 2, 4, 4 seconds."""
    breaker = healthy()
    now = 1.0
    breaker.check_failed(now, decisive=True)
    waits = [breaker.retry_at - now]
    for _ in range(4):
        now = breaker.retry_at
        breaker.begin_trial(now)
        breaker.check_failed(now, decisive=True)
        waits.append(breaker.retry_at - now)
    assert waits == [0.5, 1.0, 2.0, 4.0, 4.0]


def test_an_early_relapse_ejects_on_the_first_failure_and_for_longer() -> None:
    """An endpoint that flaps costs clients less and less."""
    breaker = healthy()
    breaker.check_failed(1.0, decisive=True)
    now = recover(breaker)
    assert breaker.request_failed(now + 1.0)
    assert breaker.retry_at - (now + 1.0) == 1.0
    now = recover(breaker)
    later = now + LIMITS.probation
    assert not breaker.request_failed(later)
    assert breaker.check_failed(later, decisive=True)
    assert breaker.retry_at - later == LIMITS.base


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["request_failed", "request_succeeded", "check", "refused", "slow"]),
        st.floats(0.0, 20.0),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_any_history_keeps_the_rules(steps: list[tuple[str, float]]) -> None:
    """Changes are announced exactly when `healthy` changes; waits lie within the limits; no trial comes early."""
    breaker = Breaker(LIMITS)
    now = 0.0
    for step, wait in steps:
        now += wait
        before = breaker.healthy
        changed = False
        if step == "request_failed":
            changed = breaker.request_failed(now)
        elif step == "request_succeeded":
            breaker.request_succeeded()
        else:
            ejected = breaker.state is State.EJECTED
            breaker.begin_trial(now)
            assert not (ejected and breaker.state is State.TRIAL and now < breaker.retry_at)
            changed = breaker.check_succeeded(now) if step == "check" else breaker.check_failed(now, step == "refused")
        assert changed == (breaker.healthy != before)
        if changed and not breaker.healthy:
            assert LIMITS.base <= breaker.retry_at - now + 1e-9
            assert breaker.retry_at - now <= LIMITS.cap + 1e-9
