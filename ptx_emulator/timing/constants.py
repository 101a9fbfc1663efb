"""The one table of what the timed mode assumes of the hardware: value, unit, source, and the range of what is disputed.

Sources: SA = SemiAnalysis microbenchmarks of B200; Q = QuickRunCUDA (B300); U = public microbenchmarks of the DSA
kernel contest (B200); SD = cicuvc/nvidia-sass-document (probes of instruction caches on B200, GB202, H100, Sep 2026);
FG = FlashGPU-Sim (RTX 5090 calibration, Aug 2026); EB = notes of a B200 kernel contest entry (FlashInfer-Bench,
Oct 2026); I = inference, stated. Times are cycles of the SM clock, rates are per cycle and SM (or per SM sub-partition
where the unit says so). Values that are given in seconds elsewhere are converted at run time by `clock`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Constant:
    """One number. low, high: the ends of a disputed one, else None."""

    value: float
    unit: str
    source: str
    low: float | None = None
    high: float | None = None

    @property
    def is_disputed(self) -> bool:
        return self.low is not None


CONSTANTS: dict[str, Constant] = {
    # The chip.
    "clock": Constant(1.93, "GHz", "SA, U: 1.845 under load, 1.965 light; throttling data-dependent (Q)", 1.5, 1.93),
    "sms": Constant(148, "SMs", "B200 (Chips and Cheese)"),
    "hbm": Constant(
        7.2e12, "bytes/s", "SA: 7.26-7.31 TB/s by TMA; EB: 6.3 by loads, 400 MB read once in 64 us", 6.3e12, 7.2e12
    ),
    "hbm_burst": Constant(1000.0, "cycles", "I: how long an SM may run ahead of its share of HBM, about a latency"),
    "hbm_queue": Constant(
        500.0, "cycles", "I from SA: 32 KB in flight per SM give 5.9 TB/s, so at 0.8 of the rate a load takes 320 more"
    ),
    "l2_bytes": Constant(64.0, "bytes/cycle/SM", "SM input link (performance.md section 5); L2 gives 72 (20.5 TB/s)"),
    "launch": Constant(2.2e-6, "s", "Q: event floor of one kernel"),
    "next_launch": Constant(1.05e-6, "s", "from Q: PDL saves 0.5-1 us a pair, which is added to the line below"),
    "next_launch_pdl": Constant(0.30e-6, "s", "I: the last CTA's end until a waiting grid goes on"),
    # Issue and arithmetic, per SM sub-partition (four a SM).
    "issue": Constant(1.0, "instructions/cycle/SMSP", "Q"),
    "alu": Constant(0.5, "instructions/cycle/SMSP", "Q: LOP3-class"),
    "fma": Constant(1.0, "instructions/cycle/SMSP", "Q: FFMA; a packed f32x2 counts twice"),
    "minmax": Constant(1.0, "instructions/cycle/SMSP", "Q: FMNMX about 1"),
    "mufu": Constant(0.125, "instructions/cycle/SMSP", "B200: 16 EX2/cycle/SM (Hao AI, TileSight); B300: 32"),
    "alu_latency": Constant(5.0, "cycles", "I: dependent issue"),
    "fma_latency": Constant(4.0, "cycles", "I: dependent issue"),
    "mufu_latency": Constant(20.0, "cycles", "I"),
    "shuffle_latency": Constant(24.0, "cycles", "I"),
    "branch": Constant(
        30.0, "cycles", "SD: rings of 4 to 16 taken jumps, 30.3-30.85 each on B200; FlashGPU-Sim's H100: 12", 6.0, 30.0
    ),
    "window": Constant(96.0, "instructions", "I: how far ptxas moves independent work ahead of a result"),
    # Instruction fetch. Lines of 128 bytes (8 instructions).
    "code_cache": Constant(32768.0, "bytes/SM", "SD: B200, of all four sub-partitions (GB202 64 KiB, H100 128 KiB)"),
    "code_latency": Constant(
        77.0,
        "cycles",
        "SD: a jump to a line that only the next level holds, GB202 (130.7 - 53.8 a visit); low: still there from the last "
        "launch; high: l2_latency",
        1.0,
        300.0,
    ),
    "code_line": Constant(
        24.6,
        "cycles/line/warp",
        "SD: B200, loops of 40-48 KiB take 3.08 cycles an instruction, with four warps too; the high end is FG's RTX 5090, "
        "cold code behind the 64 KiB that a launch preloads (9.52 an instruction); low as above",
        1.0,
        76.2,
    ),
    "code_ahead": Constant(4.0, "lines", "FG: four lines; Huerta et al. (arXiv 2503.20481) suppose 16"),
    # Memory.
    "shared_port": Constant(128.0, "bytes/cycle/SM", "Q: reads and writes share it"),
    "shared_latency": Constant(26.0, "cycles", "I: ld.shared without conflicts"),
    "shared_patience": Constant(32.0, "cycles", "I: ld/st.shared wait no longer than this for MMA operands"),
    "tags": Constant(
        4.0,
        "lines/cycle/SM",
        "different 128-byte lines of a load or store: Volta's tag stage looks up 4 a cycle (NVIDIA, forum thread 49571); "
        "low I",
        1.0,
        4.0,
    ),
    "l1_latency": Constant(36.0, "cycles", "U: global load that hits in L1"),
    "l2_latency": Constant(300.0, "cycles", "U: global load from L2"),
    "hbm_latency": Constant(
        700.0, "cycles", "U: 690-707, global load from HBM; EB: 790 from the near die, 1160 from the far", 700.0, 975.0
    ),
    "tma_512": Constant(900.0, "cycles", "SA: round trip of one TMA load of 512 B, all SMs, from HBM"),
    "tma_4k": Constant(1040.0, "cycles", "SA"),
    "tma_8k": Constant(1260.0, "cycles", "SA"),
    "tma_16k": Constant(1400.0, "cycles", "SA"),
    "tma_32k": Constant(1760.0, "cycles", "SA"),
    "tma_issue": Constant(12.0, "cycles", "I: between TMA instructions of a thread"),
    "bulk_store_latency": Constant(500.0, "cycles", "I from U: bulk store from shared memory"),
    "bulk_store_rate": Constant(32.0, "bytes/cycle/SM", "U: 62 GB/s at most from one CTA (32 B/clk)"),
    # Tensor Memory.
    "tmem_load": Constant(
        128.0,
        "bytes/cycle/SMSP",
        "no direct figure (57 to 1024 claimed); U's rescale of 64 columns, 151 a chunk less store and multiply, leaves "
        "110 to 220; others assume 64",
        64.0,
        217.0,
    ),
    "tmem_store": Constant(
        217.0, "bytes/cycle/SMSP", "U: N columns take 12 + 0.59 N cycles; others assume 64", 64.0, 217.0
    ),
    "tmem_load_latency": Constant(20.0, "cycles", "I from U: rescale of 64 columns in 168 cycles"),
    "tmem_store_latency": Constant(6.0, "cycles", "U: 12 + 0.59 N, its wait included"),
    "tmem_wait": Constant(6.0, "cycles", "U: 12.8 the pair"),
    # Tensor core.
    "mma_macs": Constant(4096.0, "16-bit multiply-adds/cycle/SM", "SA: 8192 FLOP; twice that for 8 bits"),
    "ws_floor": Constant(54.0, "cycles", "U: .ws M64, 52.5-54.5 at N64 and N128; SA's plain M64 N64: 32", 32.0, 54.0),
    "ws_column": Constant(0.297, "cycles/column", "FlashMLA-style bench, U: .ws M64 N256 TS 76"),
    "mma_floor": Constant(16.0, "cycles", "SA: TS at N32 = N/2", None, None),
    "mma_latency": Constant(49.0, "cycles", "SA: TS N/2 + 104, of which `wake` 44 and the issue of MMA and commit 11"),
    "mma_latency_shared": Constant(24.0, "cycles", "SA: SS M64 +120, M128 +136 against TS +104"),
    "mma_latency_pair": Constant(28.0, "cycles", "SA: 2-CTA +130/138 against +104"),
    "mma_issue": Constant(8.0, "cycles", "I: of the issuing thread, per instruction"),
    "mma_start": Constant(20.0, "cycles", "I: issue to start, part of the latency"),
    "cp_bytes": Constant(55.0, "bytes/cycle", "U: tcgen05.cp 128x256b 74.7 cycles (4 KB)"),
    # Synchronisation.
    "arrive": Constant(44.0, "cycles", "U: arrive + wait 88.5, half of it", None, None),
    "wake": Constant(44.0, "cycles", "U: arrive + wait 88.5, half of it"),
    "test": Constant(20.0, "cycles", "I: a wait that passes at once"),
    "remote": Constant(180.0, "cycles", "I: an access to another CTA's shared memory"),
    "named": Constant(20.7, "cycles", "U: named barrier of 128 threads"),
    "cluster_barrier": Constant(350.0, "cycles", "Q: cluster.sync 175-190 ns"),
    "proxy_fence": Constant(20.0, "cycles", "I: fence.proxy.async"),
    "tcgen_fence": Constant(1.4, "cycles", "U: 2.8 the pair"),
    "gpu_fence": Constant(740.0, "cycles", "Q: 385 ns"),
    "tmem_alloc": Constant(150.0, "cycles", "I"),
}
NAMES = tuple(CONSTANTS)
INDEX = {name: i for i, name in enumerate(NAMES)}


@dataclass(frozen=True)
class Constants:
    """The table with some values replaced. Raises ValueError for a name that it does not have."""

    values: Mapping[str, float]

    @classmethod
    def of(cls, **changed: float) -> Constants:
        unknown = sorted(set(changed) - set(CONSTANTS))
        if unknown:
            raise ValueError(f"constant {unknown[0]!r}: must be one of {', '.join(NAMES)}")
        for name, value in changed.items():
            if not value > 0:
                raise ValueError(f"constant {name}={value!r}: must be positive")
        return cls({name: float(changed.get(name, constant.value)) for name, constant in CONSTANTS.items()})

    @classmethod
    def read(cls, path: str | Path, **changed: float) -> Constants:
        """From a JSON object of names and numbers, e.g. measured on a GPU; `changed` go before it."""
        loaded = json.loads(Path(path).read_text())
        if not isinstance(loaded, dict) or not all(isinstance(v, int | float) for v in loaded.values()):
            raise ValueError(f"{path}: must be a JSON object of constant names and numbers")
        return cls.of(**{**loaded, **changed})

    @classmethod
    def given(cls, settings: Sequence[str], path: str | Path | None = None) -> Constants:
        """As a command line gives them: NAME=VALUE texts (--set), which go before a file of --constants.

        Raises ValueError, OSError (the file).
        """
        changed = {name: float(value) for name, _, value in (text.partition("=") for text in settings)}
        return cls.read(path, **changed) if path else cls.of(**changed)

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def replace(self, **changed: float) -> Constants:
        return Constants.of(**{**self.values, **changed})

    @property
    def with_code_there(self) -> Constants:
        """Of a kernel whose instructions are in the cache before it starts."""
        return self.replace(**{name: CONSTANTS[name].low for name in ("code_latency", "code_line")})

    def row(self) -> np.ndarray:
        """float64, in the order of INDEX; `hbm` in bytes per cycle of the whole chip."""
        row = np.array([self.values[name] for name in NAMES])
        row[INDEX["hbm"]] = self.values["hbm"] / self.cycles_per_second
        return row

    @property
    def cycles_per_second(self) -> float:
        return self.values["clock"] * 1e9

    def microseconds(self, cycles: float) -> float:
        return cycles / self.cycles_per_second * 1e6
