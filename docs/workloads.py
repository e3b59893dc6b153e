"""Makes docs/workloads.md from the workloads' own options: `python docs/workloads.py > docs/workloads.md`."""

from __future__ import annotations

import sys

from kvroute.simulator.workloads.naming import GENERATORS, TRACES
from kvroute.simulator.workloads.options import Option
from kvroute.simulator.workloads.source import Source

HEAD = """# Workloads

What `kvroute simulate`, `compare`, `plan`, `tune` and `workload` send: `NAME:PATH` for a trace, `NAME` for a generator,
both with options behind them, separated by commas. Numbers take `k` and `m`.

```
kvroute workload                                                    # which there are
kvroute workload chat --options                                     # what one can be told
kvroute workload chat,turns=8,think=20 --requests 5000 --rate 12    # what it is: lengths, sessions, bound
kvroute workload rag,concurrency=32 --write rag.jsonl --chat        # as real text, for a real engine
```

- `--requests N` takes the first N; of a trace that holds fewer, all. Sessions count whole, in their order, the last one
  cut; so which requests are sent does not depend on the fleet.
- `--rate R` is requests per second on average, before `rate=`. A trace's times are stretched to it; where requests come
  in sessions, sessions start as often as makes it so in the long run.
- `--speedup X` divides all times: arrivals, periods, and think times too.
- `concurrency=N` is a closed loop: N clients (or sessions) at once, each of which goes on when it was answered. It has
  no rate.
- The same seed gives the same requests, whatever policy runs and however slow the fleet is.

A prompt's content is the chained keys of its full blocks, not text. `reusable` in `kvroute workload`, and the bound in
reports, is what one endless cache that forgets nothing would have held of the prompts, in order of arrival; the last
token of a prompt is always computed. With `--write`, each key becomes words: prompts share text where they share keys.

A trace with a fault is refused with file, line and reason; `.gz` is unpacked.
"""

NOTES = {
    "mooncake": """\
One JSON object a line: `timestamp` [ms], `input_length`, `output_length`, `hash_ids` of blocks of 512 tokens. A last
block that is not full has no key. Ids are chained again, so traces whose ids are of blocks alone work too. Lines may
be in any order. The trace names no sessions: a prompt that continues all of an earlier one, of two blocks at least,
is taken for its next turn.""",
    "agents": """\
One session a line: `id`, `block_size`, `tool_tokens`, `system_tokens`, and `requests` with `t` [s], `in`, `out`,
`hash_ids`, `api_time` [s]; a request of type `subagent` has `requests` of its own and `duration_ms`, and its `t` is
when its result came. A closed loop:

- A turn is sent when the answer before it has ended, and the sub-agents that had come back by then; plus the pause
  that the trace has between. `think_time` is not used: it counts from the last answer whose time is known. Where an
  answer's time is not recorded, it is taken to be at the session's pace.
- Sub-agents start when what ended last before them has ended: side by side behind their parent's turn, or behind each
  other. The few turns that overlap follow each other at once.
- Ids count anew in each session, so they say nothing across sessions. Prompts begin with the tools, then the system
  prompt: sessions with as many tool tokens are taken to have the same tools, and with as many system tokens too the
  same system prompt. All sessions are one model's.
- An answer's blocks are found again where the next prompt continues the last one and has room for the answer.
- Sessions carry no dates: they start at random (`rate`, `sessions`), or so many at once (`concurrency`).""",
    "azure": """\
CSV with the columns `TIMESTAMP`, `ContextTokens`, `GeneratedTokens`, in any order. It tells nothing of prefixes, so
no prompt shares any.""",
    "log": "[decision-log.md](decision-log.md) has its format.",
    "rag": """\
A chunk's KV depends on all before it, so a chunk is found again only behind the same chunks in the same order.""",
    "mixture": """\
Each part has its share of the requests, of the rate and of the clients, and keys of its own. Shares need not add up
to 1; without any, chat is 0.5, rag 0.3, summarise 0.2. `key`, `spread` and how requests arrive are for all parts;
`chat.turns=8` is for one.""",
}


def page() -> str:
    """The page as it should be."""
    parts = [HEAD, "## Traces\n"]
    parts += [_section(f"{name}:PATH", name, source) for name, source in TRACES.items()]
    parts.append("## Generators\n")
    parts += [_section(name, name, source) for name, source in GENERATORS.items()]
    return "\n".join(parts)


def _section(title: str, name: str, source: Source) -> str:
    note = f"\n{NOTES[name]}\n" if name in NOTES else ""
    rows = "\n".join(_row(option) for option in source.options if "." not in option.name)
    summary = source.summary[0].upper() + source.summary[1:]
    return f"### `{title}`\n\n{summary}.\n{note}\n| option | default | meaning |\n|---|---|---|\n{rows}\n"


def _row(option: Option) -> str:
    default = "" if option.default in (None, "") else f"`{option.default}`"
    choices = f" ({', '.join(option.choices)})" if option.choices else ""
    return f"| `{option.name}` | {default} | {option.meaning}{choices} |"


if __name__ == "__main__":
    sys.stdout.write(page())
