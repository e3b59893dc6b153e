"""A decision log as a workload."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.log import Logged, read
from tests.simulator.workloads.logs import began, request, write


def log(folder: Path, *requests: object) -> str:
    """A log of these requests."""
    return write(folder / "log", began(), *requests)  # type: ignore[arg-type]


def shapes(workload: Logged) -> list[tuple[float, int, int, int]]:
    """(time, prompt, keys, output) of each job."""
    jobs = workload.arrivals()
    return [(job.at, job.request.tokens, len(job.request.keys), job.output_tokens) for job in jobs]


def test_requests_come_when_they_came(tmp_path: Path) -> None:
    """Whatever the order in which they ended."""
    path = log(tmp_path, request(7.0, range(4)), request(5.0, range(3)))
    assert shapes(read(path)) == [(0.0, 56, 3, 10), (2.0, 72, 4, 10)]
    assert shapes(read(path, speedup=2.0)) == [(0.0, 56, 3, 10), (1.0, 72, 4, 10)]
    assert shapes(read(path, rate=0.25)) == [(0.0, 56, 3, 10), (4.0, 72, 4, 10)]
    assert shapes(read(path, requests=1)) == [(0.0, 56, 3, 10)]


def test_shared_prefixes_stay_shared(tmp_path: Path) -> None:
    """Keys are numbered anew, equal where they were equal."""
    one, two = read(log(tmp_path, request(1.0, [70, 80, 90]), request(2.0, [70, 80, 95]))).arrivals()
    assert (one.request.keys, two.request.keys) == ([1, 2, 3], [1, 2, 4])


def test_adapters_are_asked_for_again(tmp_path: Path) -> None:
    """A request for an adapter stays one."""
    path = log(tmp_path, request(1.0, adapter="a"), request(2.0), request(3.0, adapter="b"))
    assert [job.request.adapter for job in read(path).arrivals()] == ["a", None, "b"]


def test_the_engines_counts_go_over_estimates(tmp_path: Path) -> None:
    """A text block of 512 bytes that turned out as 122 tokens is keyed as 128; keys never reach beyond the prompt."""
    told = request(1.0, range(10), tokens=1000, prompt_tokens=1220, block_tokens=100.0)
    workload = read(log(tmp_path, told))
    assert workload.key_tokens == 128
    assert shapes(workload) == [(0.0, 1220, 9, 10)]


def test_small_blocks_are_taken_together(tmp_path: Path) -> None:
    """Keys of four tokens each: every fourth stands for an engine's block."""
    workload = read(log(tmp_path, request(1.0, range(1, 11), tokens=42, block_tokens=4.0)))
    assert workload.key_tokens == 16
    assert shapes(workload) == [(0.0, 42, 2, 10)]


def test_unknown_outputs_are_the_mean(tmp_path: Path) -> None:
    """Or the client's limit, where that is less; what generates nothing gives one token."""
    path = log(
        tmp_path, request(1.0, output_tokens=20), request(2.0, output_tokens=40), request(3.0, output_tokens=None),
        request(4.0, output_tokens=None, max_output_tokens=5), request(5.0, kind="embedding", output_tokens=None),
    )  # fmt: skip
    assert [output for *_, output in shapes(read(path))] == [20, 40, 30, 5, 1]


def test_what_cannot_be_sent_again_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Prompts that were not read, errors of the engine; with nothing left it is said. Refused ones are load."""
    path = log(tmp_path, request(1.0, tokens=0), request(2.0, status=400), request(3.0, outcome="refused", status=0))
    assert len(shapes(read(path))) == 1
    assert "2 requests are left out" in caplog.text
    with pytest.raises(WorkloadError, match="no request for other can be sent again"):
        read(path, model="other")


def test_answers_are_kept_where_a_later_prompt_holds_them(tmp_path: Path) -> None:
    """The blocks that the answer completed, not those of the next message."""
    first = request(1.0, range(1, 5), output_tokens=40)  # 72 tokens, 112 with its answer: 7 blocks
    path = log(tmp_path, first, request(2.0, range(1, 11)), request(2.5, [1, 2, 30]))
    jobs = list(read(path).arrivals())
    assert [list(job.answer_keys) for job in jobs] == [[5, 6, 7], [], []]


def test_turns_follow_answers_where_that_is_wanted(tmp_path: Path) -> None:
    """After the recorded pause, by session or by prefix; what was sent before the answer came is sent on its own."""
    path = log(
        tmp_path, request(1.0, range(1, 4), session="a"), request(1.2, range(1, 5), session="a"),
        request(3.0, range(1, 7)), request(4.0, [50], session="b"), request(6.5, [60], session="b"),
    )  # fmt: skip
    workload = read(path, closed=True)
    first = list(workload.arrivals())
    assert [job.request.id for job in first] == ["0", "1", "3"]
    following = [workload.after(job, 100.0) for job in first]
    assert [[job.request.id for job in jobs] for jobs in following] == [[], ["2"], ["4"]]
    assert [job.at for jobs in following for job in jobs] == pytest.approx([101.3, 102.0])
    faster = read(path, closed=True, speedup=2.0)
    assert [job.at for job in faster.after(list(faster.arrivals())[2], 100.0)] == [pytest.approx(101.0)]


def test_a_sample_keeps_conversations_whole(tmp_path: Path) -> None:
    """Drawn by the seed, the same each time."""
    talks = [
        request(float(10 * turn + talk), [1000 * talk + i for i in range(turn + 2)], session=str(talk))
        for turn in range(3)
        for talk in range(8)
    ]
    path = log(tmp_path, *talks)
    kept = [turn.record.session for turn in read(path, sample=0.25, seed=5).turns]
    assert len(kept) == 6
    assert len(set(kept)) == 2
    assert kept == [turn.record.session for turn in read(path, sample=0.25, seed=5).turns]


def test_one_moment_has_no_rate(tmp_path: Path) -> None:
    """Nothing can be stretched to it."""
    with pytest.raises(WorkloadError, match="come at one moment"):
        read(log(tmp_path, request(1.0), request(1.0)), rate=5.0)
