"""Published cycles for these programs: `POINTS`, each with the program that would measure it.

Sources: SA = SemiAnalysis (B200), U = public microbenchmarks of the DSA kernel contest (B200), FM = FlashMLA-style `.ws` bench (B200), Q = QuickRunCUDA (B300),
SD = cicuvc/nvidia-sass-document (B200, GB202), FG = FlashGPU-Sim (RTX 5090). None was measured by us.

`measure`: "interval" is the slope, (cycles(n2) - cycles(n1)) / (n2 - n1) over `counts` = (n1, n2), the program's argument
`count` or `rounds`; "once" is cycles(n) at `n` itself. Where the source says less than the program needs (operand types,
accumulators, whether the loop is unrolled), `note` says what was assumed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from bench.micro import arithmetic, code, memory, mma, sync, tma, tmem
from bench.micro.timed import Timed


@dataclass(frozen=True)
class Point:
    """`build(n)` gives (ptx, options); `low`..`high` cycles, a range where sources disagree. `cold`: the program's own
    instruction fetch counts; all others were measured of loops that are in the instruction cache, and here they are
    unrolled."""

    name: str
    build: Callable[[int], tuple[str, dict]]
    measure: str
    low: float
    high: float
    source: str
    note: str = ""
    n: int = 1
    counts: tuple[int, int] = (8, 24)
    cold: bool = False

    @property
    def timed(self) -> Timed:
        return Timed(self.build, (self.n,) if self.measure == "once" else self.counts, cold=self.cold)

    def nearest(self, value: float) -> float:
        """The published cycles nearest to `value`."""
        return min(max(value, self.low), self.high)

    def __post_init__(self):
        if self.measure not in ("interval", "once"):
            raise ValueError(f"measure {self.measure!r}: interval or once")


def _mma(low, high, measure, source, note="", *, m, n, kind="f16", **options) -> Point:
    tags = [f"M{m}", f"N{n}", kind, "TS" if options.get("a_tmem") else "SS"]
    if options.get("ws"):
        tags.append("ws")
    if options.get("group") == 2:
        tags.append("pair")
    build = functools.partial(mma.chain, m=m, n=n, kind=kind, **options)
    return Point(f"mma {' '.join(tags)} {measure}", build, measure, low, high, source, note)


def _mma_points() -> list[Point]:
    points = []
    for kind in ("f16", "f8f6f4"):  # "M64 and M128: N / 2", 8192 and 16384 FLOP/clk at M128: the same interval
        for m in (64, 128):
            for n in (128, 256):
                points.append(_mma(n / 2, n / 2, "interval", "SA", m=m, n=n, kind=kind, a_tmem=True))
        for n, cycles in ((128, 32.4), (256, 64.4)):
            points.append(
                _mma(cycles, cycles, "interval", "SA", "operand source not stated", m=128, n=n, kind=kind, group=2)
            )
        points.append(
            _mma(128.4, 128.4, "interval", "SA", "operand source not stated", m=256, n=256, kind=kind, group=2)
        )
    points += [
        _mma(48, 48, "interval", "SA", "operand bytes / 128", m=128, n=64),
        _mma(32, 32, "interval", "SA", m=128, n=64, a_tmem=True),
        _mma(25, 25, "interval", "SA", "operand bytes / 128", m=128, n=64, group=2),
        _mma(18, 18, "interval", "SA", m=128, n=64, group=2, a_tmem=True),
        _mma(32, 52.5, "interval", "SA 32.0, U 52.5", "U flat for N 8..64", m=64, n=64),
        _mma(52.5, 52.5, "interval", "FM", m=64, n=128, ws=True),
        _mma(
            32,
            54.5,
            "interval",
            "FM, U 54.5",
            "performance.md: treat 32..54 as a range",
            m=64,
            n=128,
            ws=True,
            a_tmem=True,
        ),
        _mma(
            32, 54.5, "interval", "U 54.5", "performance.md: treat 32..54 as a range", m=64, n=64, ws=True, a_tmem=True
        ),
        _mma(80, 80, "interval", "FM, U", m=64, n=256, ws=True),
        _mma(76, 76, "interval", "FM, U", m=64, n=256, ws=True, a_tmem=True),
        Point(
            "mma ws chain of k, slope",
            functools.partial(mma.chain, m=64, n=128, ws=True),
            "interval",
            56.4,
            56.4,
            "U",
            "56.4 k + 118.5; N and operand source not stated: N128 SS assumed",
        ),
        Point(
            "mma ws chain of 8",
            functools.partial(mma.chain, m=64, n=128, ws=True),
            "once",
            56.4 * 8 + 118.5,
            56.4 * 8 + 118.5,
            "U",
            "as above; whether commit and wait are in it is not stated",
            8,
        ),
    ]
    for n, low, high in ((64, 152, 175), (128, 184, 263), (256, 248, 373)):
        points.append(_mma(low, high, "once", "SA low, U high", "U with commit, wait and fence", m=64, n=n))
    for n in (64, 128, 256):
        points.append(_mma(n / 2 + 104, n / 2 + 104, "once", "SA", "TS: N / 2 + 104", m=128, n=n, a_tmem=True))
        points.append(_mma(n / 2 + 136, n / 2 + 136, "once", "SA", "SS M128: N / 2 + 136", m=128, n=n))
    pair = "TS pair: +130 / 138 read as M128 / M256, on the interval"
    points.append(_mma(32.4 + 130, 32.4 + 130, "once", "SA", pair, m=128, n=128, group=2, a_tmem=True))
    points.append(_mma(128.4 + 138, 128.4 + 138, "once", "SA", pair, m=256, n=256, group=2, a_tmem=True))
    return points


def _tma_points() -> list[Point]:
    rows = ((512, 900), (4096, 1040), (8192, 1260), (16384, 1400), (32768, 1760))
    note = "all 148 SMs, one stage: use ctas=148 (memory: 148 * n * nbytes)"
    return [
        Point(
            f"tma round trip {nbytes} B, 148 CTAs",
            functools.partial(_tma_round_trip, nbytes),
            "interval",
            cycles,
            cycles,
            "SA",
            note,
            counts=(2, 6),
        )
        for nbytes, cycles in rows
    ]


def _tma_round_trip(nbytes: int, count: int) -> tuple[str, dict]:
    return tma.loads(nbytes, stages=1, count=count, ctas=148)


def _tma_in_flight(nbytes: int, stages: int, count: int) -> tuple[str, dict]:
    return tma.loads(nbytes, stages, count, ctas=148)


def _bandwidth_points() -> list[Point]:
    """Bytes in flight per SM -> TB/s over all SMs, as cycles per 8 KB load and SM at 1.92 GHz."""
    points = []
    for in_flight, rate in ((16, 3.8), (32, 5.9), (64, 7.2), (128, 7.26)):
        cycles = 8192 * 148 / (rate * 1e12) * 1.92e9
        stages = in_flight // 8
        points.append(
            Point(
                f"tma {in_flight} KB in flight per SM, 148 CTAs",
                functools.partial(_tma_in_flight, 8192, stages),
                "interval",
                cycles,
                cycles,
                "SA",
                f"{rate} TB/s; 1.92 GHz assumed, as are 8 KB loads",
                counts=(2 * stages, 4 * stages),
            )
        )
    return points


def _tmem_points() -> list[Point]:
    disputed = "57 B/clk/warp (Q); another repository implies 4 KB/clk/SM: disputed"
    points = []
    for width in (32, 64):
        per_load = 32 * 4 * width  # bytes of one warp's instruction
        points.append(
            Point(
                f"tcgen05.ld x{width}, one warp",
                functools.partial(_load, width, 1),
                "interval",
                per_load / 1024,
                per_load / 57,
                "Q high, unnamed low",
                disputed,
                counts=(64 // width, 192 // width),
            )
        )
        points.append(
            Point(
                f"tcgen05.st x{width}, one warp",
                functools.partial(_store, width, 1),
                "once",
                12 + 0.59 * width,
                12 + 0.59 * width,
                "U",
                "12 + 0.59 N, N = columns; with its wait assumed",
            )
        )
    points.append(Point("rescale 64 columns", tmem.rescale, "once", 168, 168, "U", "4 warps assumed"))
    points.append(Point("rescale 4 x 64 columns", tmem.rescale, "once", 622, 622, "U", "4 warps assumed", 4))
    return points


def _load(width: int, warps: int, count: int) -> tuple[str, dict]:
    return tmem.load(count, width, warps=warps)


def _store(width: int, warps: int, count: int) -> tuple[str, dict]:
    return tmem.store(count, width, warps=warps)


def _sync_points() -> list[Point]:
    ghz = 1.92  # Q gives nanoseconds on a B300 at 1.92 to 2.03 GHz
    arrive = "U 88.5 cycles, Q 58 ns"
    return [
        Point(
            "mbarrier arrive + wait, one thread",
            sync.self_arrival,
            "interval",
            88.5,
            58 * ghz,
            arrive,
            "one thread or two: not stated",
        ),
        Point(
            "mbarrier ping-pong, a round",
            sync.ping_pong,
            "interval",
            2 * 88.5,
            2 * 58 * ghz,
            arrive,
            "two hand-overs a round",
        ),
        Point("named barrier of 128", sync.named_barrier, "interval", 20.7, 20.7, "U"),
        Point(
            "__syncthreads of 128", sync.syncthreads, "interval", 14 * ghz, 14 * ghz, "Q 14 ns", "threads not stated"
        ),
        Point(
            "cluster barrier of 2",
            sync.cluster_barrier,
            "interval",
            175 * ghz,
            190 * ghz,
            "Q 175-190 ns",
            "cluster size not stated",
        ),
        Point("commit", sync.commits, "interval", 30, 30, "U", "the program waits too: a lower bound for it"),
    ]


def _memory_points() -> list[Point]:
    points = [
        Point(f"global load, {level}", functools.partial(_chain, level), "interval", low, high, "U")
        for level, low, high in (("l1", 36, 36), ("l2", 300, 300), ("dram", 690, 707))
    ]
    for ways in (1, 2, 4, 8, 16, 32):
        points.append(
            Point(
                f"ld.shared, {ways} lanes a bank, 8 warps",
                functools.partial(_shared, ways),
                "interval",
                8 * ways,
                8 * ways,
                "Q 128 B/clk/SM",
                "derived: one 128-byte wavefront a clock; cycles per load of every one of the 8 warps",
            )
        )
    return points


def _chain(level: str, count: int) -> tuple[str, dict]:
    return memory.global_chain(count, level, 128 if level == "l1" else 4096)


def _shared(ways: int, count: int) -> tuple[str, dict]:
    return memory.shared_loads(count, ways, warps=8)


def _arithmetic_points() -> list[Point]:
    rows = (
        (
            "ex2",
            8,
            "16 / clk / SM on B200 (Hao AI, TileSight; 4.5 T/s measured): 8 cycles a warp instruction and scheduler",
        ),
        ("fma", 1, "Q: 1 / clk / SMSP (0.65 with three distinct registers)"),
        ("max", 1, "Q: FMNMX about 1 / clk / SMSP"),
        ("lop3", 2, "Q: LOP3-class 0.5 / clk / SMSP"),
    )
    return [
        Point(
            f"{name}, one warp a scheduler",
            functools.partial(arithmetic.rate, name),
            "interval",
            cycles,
            cycles,
            source,
            counts=(64, 192),
        )
        for name, cycles, source in rows
    ]


def _code_points() -> list[Point]:
    """Cycles of a pass, of a chain's step, of a jump."""
    nop = "published of NOPs, two cycles each: here of lop3"
    points = []
    for kib, warps, low, high in ((24, 1, 2.02, 2.02), (40, 1, 3.08, 3.08), (6, 4, 2.11, 2.11), (10, 4, 3.10, 3.14)):
        count = kib * 1024 // code.INSTRUCTION_BYTES
        points.append(
            Point(
                f"code, {warps} x {kib} KiB a pass",
                functools.partial(code.loop, path_bytes=kib * 1024, warps=warps),
                "interval",
                low * count,
                high * count,
                "SD",
                nop,
                counts=(2, 4),
                cold=True,
            )
        )
    chain = "RTX 5090, cold: (7912 - 3977) / 960 and (20425 - 7912) / 3072 of integer multiply-adds"
    points.append(
        Point(
            "code, cold chain of fma",
            code.cold_chain,
            "interval",
            4.07,
            4.10,
            "FG",
            chain,
            counts=(512, 2560),
            cold=True,
        )
    )
    for targets, low, high, note in (
        (16, 16 * 30.3, 16 * 30.85, "B200"),
        (320, 320 * 107.0, 320 * 107.9, "derived: B200's jump and GB202's 77 of a line that only the next level holds"),
    ):
        ring = functools.partial(code.ring, targets=targets, apart=6)
        points.append(
            Point(f"code, ring of {targets} jumps", ring, "interval", low, high, "SD", note, counts=(2, 4), cold=True)
        )
    return points


POINTS = [
    *_mma_points(),
    *_tma_points(),
    *_bandwidth_points(),
    *_tmem_points(),
    *_sync_points(),
    *_memory_points(),
    *_arithmetic_points(),
    *_code_points(),
]

# Published, without a program here: tcgen05 fence pair 2.8, wait pair 12.8 cycles (U); tcgen05.cp 128x256b 168 first, then
# 74.7, 128x128b 51.3 (U); gather4 of 4 KB cold / L2 / random cold 546 / 197 / 651 ns (U); bulk store of 512 B, 1 CTA
# 34 ns (U); gpu fence 385 ns, L2 atomic 164 ns, grid.sync 1.8 us (Q); L2 far side + 300 cycles, 13.3 to 20.5 TB/s.
