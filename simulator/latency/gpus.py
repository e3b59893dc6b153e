"""What makers say of their GPUs: dense matrix rates, memory and links, from the public datasheets."""

from __future__ import annotations

import difflib
from typing import Literal

import msgspec

from kvroute.simulator.errors import FleetError

Precision = Literal["bf16", "fp8", "fp4", "int4"]


class Gpu(msgspec.Struct, frozen=True):
    """One GPU. Rates are peaks without sparsity; a type that it does not compute in is computed in the next wider."""

    name: str
    bf16: float
    """Dense bf16 rate, accumulating in fp32 [flop/s]."""
    fp8: float | None
    """[flop/s]; None: no such units."""
    fp4: float | None
    """[flop/s]; None: no such units."""
    memory_bytes: float
    """As its driver reports it, a little more or less than the name says [bytes]."""
    memory_rate: float
    """[bytes/s]"""
    link_rate: float
    """To the other GPUs of one replica, one direction [bytes/s]."""
    source: str
    """The datasheet that the rates are from."""

    def rate(self, precision: Precision) -> float:
        """Matrix rate at a precision of the weights [flop/s]; int4 weights are computed in bf16."""
        if precision == "fp4" and self.fp4 is not None:
            return self.fp4
        if precision in ("fp4", "fp8") and self.fp8 is not None:
            return self.fp8
        return self.bf16


_T, _MIB, _G = 1e12, float(1 << 20), 1e9


def _row(
    name: str, bf16: float, fp8: float | None, fp4: float | None, mib: float, memory: float, link: float, source: str
) -> Gpu:
    """TFLOP/s, MiB and GB/s as datasheets give them."""
    return Gpu(
        name, bf16 * _T, fp8 and fp8 * _T, fp4 and fp4 * _T, mib * _MIB, memory * _G, link * _G, f"{source} datasheet"
    )


GPUS = {
    gpu.name: gpu
    for gpu in (
        _row("a10", 125, None, None, 23028, 600, 32, "NVIDIA A10"),
        _row("a30", 165, None, None, 24576, 933, 100, "NVIDIA A30"),
        _row("a100-40gb", 312, None, None, 40960, 1555, 300, "NVIDIA A100"),
        _row("a100-80gb", 312, None, None, 81920, 2039, 300, "NVIDIA A100"),
        _row("a6000", 154.8, None, None, 49140, 768, 56, "NVIDIA RTX A6000"),
        _row("b200", 2250, 4500, 9000, 183359, 8000, 900, "NVIDIA HGX B200"),
        _row("gh200-96gb", 989.5, 1979, None, 97871, 4000, 450, "NVIDIA GH200"),
        _row("h100-pcie", 756.5, 1513, None, 81559, 2000, 64, "NVIDIA H100"),
        _row("h100-sxm", 989.5, 1979, None, 81559, 3350, 450, "NVIDIA H100"),
        _row("h200", 989.5, 1979, None, 143771, 4800, 450, "NVIDIA H200"),
        _row("l4", 121, 242.5, None, 23034, 300, 32, "NVIDIA L4"),
        _row("l40s", 362, 733, None, 46068, 864, 32, "NVIDIA L40S"),
        _row("mi300x", 1307.4, 2614.9, None, 196592, 5300, 448, "AMD Instinct MI300X"),
        _row("mi325x", 1307.4, 2614.9, None, 262128, 6000, 448, "AMD Instinct MI325X"),
        _row("rtx-4090", 165.2, 330.3, None, 24564, 1008, 32, "NVIDIA Ada GPU architecture"),
        _row("rtx-5090", 209.5, 419, 1676, 32607, 1792, 64, "NVIDIA RTX Blackwell GPU architecture"),
        _row("rtx-pro-6000", 503.8, 1007.6, 2015.2, 97887, 1792, 64, "NVIDIA RTX PRO 6000 Blackwell"),
        _row("rtx-pro-6000-server", 503.8, 1007.6, 2015.2, 97887, 1597, 64, "NVIDIA RTX PRO 6000 Blackwell Server"),
    )
}
ALIASES = {"a100": "a100-80gb", "h100": "h100-sxm", "gh200": "gh200-96gb"}


def gpu(name: str) -> Gpu:
    """The GPU of that name.

    Raises:
        FleetError: there is none; the message lists what exists.
    """
    found = GPUS.get(ALIASES.get(name, name))
    if found is None:
        near = difflib.get_close_matches(name, list(GPUS), n=1, cutoff=0.4)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise FleetError(f"there is no datasheet for the GPU {name!r}{meant}; there are: {', '.join(GPUS)}")
    return found
