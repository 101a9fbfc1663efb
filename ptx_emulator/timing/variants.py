"""What-if changes of the constants: each resource twice as fast in turn, and each disputed constant at both of its ends."""

from __future__ import annotations

from collections.abc import Callable

from .constants import CONSTANTS, Constants

Changes = Callable[[Constants], dict[str, float]]


def _times(factor: float, *names: str) -> Changes:
    return lambda constants: {name: constants[name] * factor for name in names}


_TMA = ("tma_512", "tma_4k", "tma_8k", "tma_16k", "tma_32k")
# Utilisation alone misleads: what a resource's share of the time says is less than what its relief brings.
RELAXED: tuple[tuple[str, Changes], ...] = (
    ("HBM", _times(2, "hbm")),
    ("shared-memory port", _times(2, "shared_port")),
    (
        "tensor core",
        lambda c: {**_times(2, "mma_macs")(c), **_times(0.5, "ws_floor", "ws_column", "mma_floor")(c)},
    ),
    ("Tensor Memory", _times(2, "tmem_load", "tmem_store")),
    ("EX2", _times(2, "mufu")),
    ("issue, ALU, FMA", _times(2, "issue", "alu", "fma", "minmax")),
    ("TMA latency", _times(0.5, *_TMA)),
    ("load latency", _times(0.5, "hbm_latency", "l2_latency")),
    ("L2 and link", _times(2, "l2_bytes")),
    ("synchronisation", _times(0.5, "arrive", "wake", "test", "remote", "named", "mma_latency")),
    ("MMA issue", _times(0.5, "mma_issue")),
    ("instruction fetch", _times(0.5, "code_latency", "code_line", "branch")),
    ("launch, hand-over", _times(0.5, "launch", "next_launch", "next_launch_pdl")),
)
_TOGETHER = ("clock", "tmem_load", "tmem_store", "code_latency", "code_line")


def disputed() -> list[tuple[str, Changes]]:
    """The ends of each disputed constant but the clock; Tensor Memory's two rates go together, and how code comes."""
    variants: list[tuple[str, Changes]] = []
    for end in ("low", "high"):
        ends = {name: getattr(CONSTANTS[name], end) for name in ("tmem_load", "tmem_store")}
        variants.append((f"tmem {ends['tmem_load']:g}/{ends['tmem_store']:g} B/clk", lambda _, ends=ends: dict(ends)))
    for title, end in (("code warm", "low"), ("code from L2", "high")):
        ends = {name: getattr(CONSTANTS[name], end) for name in ("code_latency", "code_line")}
        variants.append((title, lambda _, ends=ends: dict(ends)))
    for name, constant in CONSTANTS.items():
        if constant.is_disputed and name not in _TOGETHER:
            for value in (constant.low, constant.high):
                if value != constant.value:
                    variants.append((f"{name} {value:g}", lambda _, name=name, value=value: {name: value}))
    return variants
