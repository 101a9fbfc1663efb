"""Constants of the GPUs that performance figures here are stated for, each with where it was measured or published.

Nothing in this repository was measured on a Blackwell GPU: these are other people's figures.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """Peak rates; clocks in Hz, rates per clock and SM unless the name says otherwise."""

    name: str
    num_sms: int
    clock_hz: float
    hbm_bytes_per_second: float
    mma_flop_per_clock: dict[str, int]
    exp2_per_clock: int


# 148 SMs: Chips and Cheese. Clock: 1845 MHz sustained according to Modal; 2.25 PFLOP/s dense implies 1856.
# HBM 7.2 TB/s: TMA loads with at least 64 KiB in flight per SM, SemiAnalysis microbenchmarks (8.0 is the datasheet's).
# tcgen05: 8192 (16-bit) and 16384 (e4m3) FLOP per clock and SM at M=128, and at M=64 with `.ws` near N=256;
# SemiAnalysis microbenchmarks. ex2: 16 per clock and SM on B200, 32 on B300; Hao AI Lab, TileSight.
B200 = Gpu("B200", 148, 1.85e9, 7.2e12, {"bf16": 8192, "fp16": 8192, "fp8": 16384}, 16)
# B300: 148 SMs of 160 enabled, 7.30 TB/s, 1920 to 2032 MHz; QuickRunCUDA.
B300 = Gpu("B300", 148, 1.92e9, 7.3e12, {"bf16": 8192, "fp16": 8192, "fp8": 16384}, 32)
GPUS = {"b200": B200, "b300": B300}
