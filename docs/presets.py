"""Makes docs/presets.md from the presets as shipped: `python docs/presets.py > docs/presets.md`."""

from __future__ import annotations

import re
import sys

from kvroute.simulator.latency.gpus import GPUS
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.latency.models import CONFIGS
from kvroute.simulator.latency.presets import names, preset

HEAD = """# Kinds of replicas

What a simulated replica is: how long a step takes, what its cache holds, what lies between it and its clients. A step
of `batch` sequences takes

    c0 + c1*batch + c2*kv_tokens + c3*prefill_tokens + c4*sum(n*(ctx + n/2))    seconds,

`kv_tokens` being what the decodes read, `n` the tokens of a prefill chunk behind `ctx` computed ones; and
`c5*kv_tokens` more where it prefills, which is 0 in all presets below: only `kvroute calibrate` finds it. `--preset`
and `--replicas` take one of the names below, the path of a file that holds a kind, or a roofline. `kvroute calibrate`
fits a kind to your own logs, which is worth more than any of these.

```
kvroute simulate -w chat --replicas 8                                          # of the default
kvroute simulate -w chat --replicas 8 --preset llama-3.1-70b-h100-fp8-tp4
kvroute simulate -w chat --replicas 4*qwen3-32b-h100-tp2+2*roofline:qwen3-32b,gpu=h200
kvroute simulate -w chat --replicas 2*qwen3-32b-h100-tp2:prefill+6*qwen3-32b-h100-tp2:decode
kvroute simulate -w chat --replicas fleet.yaml --cache-tokens 200000
```

## Presets

Hold-out: each point predicted by a fit to the others; the median and 90th percentile of the absolute error. *Rough* is
one that is off by more than 10 % of TPOT or 20 % of TTFT at the median.

| name | c0 ms | c1 us | c2 ns | c3 us | c4 ns | KV tokens | points | TPOT p50 / p90 | TTFT p50 / p90 |
|---|---|---|---|---|---|---|---|---|---|
"""

MIDDLE = """
`llama-3.1-8b-h100`, the default, is assumed: round numbers of the right size, fitted to nothing.

### Where they come from, and how the points were read

Fitted presets come from 860 measured points of vLLM on H100 and B200 (ai-dynamo/aiconfigurator, Apache-2.0): mean TTFT
and TPOT at a concurrency. `python -m kvroute.simulator.latency.building CSV` makes them again. The points were read so:

- A load generator keeps C requests under way. For all but Qwen3-32B it is the public InferenceX one: 10*C requests, the
  first C at once (so a tenth of the mean TTFT is the queue of the first wave), lengths drawn evenly from 0.8 to 1 of
  the nominal ones, `max_num_batched_tokens` 8,192, no prefix cache. Qwen3-32B has equal lengths, and fits best with
  10*C requests and a budget of 2,048; how it was driven is not published, and its TTFT fits worse than its TPOT:
  take it for 30 % off.
- In such a loop the order of steps does not depend on their length. So the work behind both means is counted once per
  point, with the engine's own scheduling (a test holds it to the reference engine), and a fit of any coefficients is
  linear: least squares of relative errors, robust, within what the datasheet allows. c2 is 0.8 to 5 times, c4 1 to 4
  times what peak rates would give, and c3 at least 1.1 times, so that prompts longer than the measured 8,192 stay sane.
- What a constant adds to TTFT is put behind the step (`ingress.reply`), because a loop's next request waits for a
  running step anyway. It is up to 130 ms for one layout, which says more about that set-up than about the model.
- Where `attention_dp_size` is above 1, `batch_size` is per rank: the names of the points say the whole. Some of
  them repeat, to the last digit, points that say tensor parallelism with as many expert-parallel ranks; all are
  read so. Repeated points count once, by their median, or the hold-out would know them.
- Of several versions of vLLM the one with the most points is taken.
- Loops that want more than 85 % of the KV room are left out: they measure the cache. From their waits follows what
  the engines kept, 1.2 GB a GPU and 450 kB per token of the budget beside weights and KV, and that quantised weights
  on B200 came with KV in fp8 (gpt-oss and int4 apart). Hence the KV sizes above: memory as the driver reports it x 0.9,
  less that, less weights.

Where the formula itself falls short: a mixture of experts reads more experts as its batch grows, until it reads all.
That bends, and the formula has a line, so these presets are 5-15 % off; below 4 and above 256 sequences by more.

Points with a full cache, which no fit saw, are a check of cache sizes and scheduler together (`kvroute simulate` with
the same closed loop; mean TTFT and TPOT): Llama-3.1-70B on two H100, 8,192 in, 64 at once: 61 s and 50 ms for 59 s and
52 ms measured; MiniMax-M2.5 in fp8 on two B200, 256 at once: 65 s and 51 ms for 64 s and 47 ms; Qwen3-32B on two H100,
4,096 in, 1,024 out, 128 at once: 43 s and 50 ms for 59 s and 55 ms, for its cache is taken for a tenth too large.

## Roofline

For what nobody measured: `roofline:MODEL,gpu=NAME` with the path of a model's config.json (or its folder), or one of
{models}. Options: `tp`,
`precision` (bf16, fp8, fp4, int4; else as the config says), `kv` (bf16, fp8), `memory` (share of the GPU's),
`max_num_seqs`, `max_num_batched_tokens`, `block_size`, `name`. Dense models and mixtures of experts, grouped and latent
attention, layers with sliding windows are understood.

A step takes the longer of computing and reading, at shares of the datasheet's rates, plus launch, layers and adding up
over GPUs (`simulator/latency/roofline.py` has the twelve numbers). They were set on the points above
(`python -m kvroute.simulator.latency.tuning CSV`). Each model judged with numbers set without it:

| judged on | points | TPOT p50 / p90 | TTFT p50 / p90 |
|---|---|---|---|
| Llama-3.1-70B | 161 | 16 % / 33 % | 22 % / 93 % |
| Qwen3-32B | 85 | 14 % / 50 % | 54 % / 84 % |
| MiniMax-M2.5 | 139 | 14 % / 35 % | 27 % / 49 % |
| Kimi-K2.5 | 38 | 12 % / 34 % | 33 % / 51 % |
| gpt-oss-120b | 109 | 42 % / 70 % | 14 % / 42 % |

On GPUs that they were not set on, against fits to recorded runs of vLLM 0.19: c0 is 6 % low (Llama 8B on an RTX PRO
6000), 7 % high (Qwen3-32B on two) and 2 % low (Llama 8B on an RTX 4090); c3 37 %, 17 % and 130 % high: consumer cards
come closer to their datasheet. It is a prior: good for which of two fleets is faster, not for promises.

GPUs: {gpus}.

## Files

A kind, in YAML or JSON; what it does not say is the default's:

```yaml
name: mine
step: {{c0: 0.009, c1: 4.0e-5, c2: 3.0e-8, c3: 3.5e-5, c4: 1.0e-9, c5: 0.0}}
limits: {{blocks: 20000, block_size: 16, max_num_seqs: 256, max_num_batched_tokens: 8192}}
ingress: {{seconds: 0.004, per_token: 1.0e-6, reply: 0.01}}
role: both                       # or prefill, decode
kv_bytes_per_token: 131072
link_bytes_per_second: 25.0e9    # to hand KV to another replica
```

A fleet; relative paths start at its file:

```yaml
replicas:
  - {{preset: qwen3-32b-h100-tp2, count: 2, role: prefill, max_num_batched_tokens: 8192}}
  - {{preset: mine.yaml, count: 6, role: decode, cache_tokens: 250000, max_num_seqs: 128}}
```

Keys of an entry: `preset`, `count`, `name`, `role`, `ranks`, `max_num_seqs`, `max_num_batched_tokens`, `block_size`,
`blocks` or `cache_tokens`. This page is made by `docs/presets.py`.
"""

STATED = re.compile(r"(rough: )?fitted to (\d+) .*TPOT (\d+)% \(p90 (\d+)%\), TTFT (\d+)% \(p90 (\d+)%\)")


def row(kind: Kind) -> str:
    """One preset."""
    step = kind.step
    numbers = (step.c0 * 1e3, step.c1 * 1e6, step.c2 * 1e9, step.c3 * 1e6, step.c4 * 1e9)
    shown = " | ".join(f"{number:.3g}" for number in numbers)
    stated = STATED.match(kind.source)
    if stated is None:
        trust = "| assumed | |"
    else:
        rough, points, *shares = stated.groups()
        trust = f"{points} | {shares[0]} % / {shares[1]} %{', rough' if rough else ''} | {shares[2]} % / {shares[3]} %"
        trust = f"| {trust} |"
    return f"| `{kind.name}` | {shown} | {kind.cache_tokens:,} {trust}\n"


def page() -> str:
    """The whole page."""
    rest = MIDDLE.format(models=", ".join(CONFIGS), gpus=", ".join(GPUS))
    return HEAD + "".join(row(preset(name)) for name in names()) + rest


if __name__ == "__main__":
    sys.stdout.write(page())
