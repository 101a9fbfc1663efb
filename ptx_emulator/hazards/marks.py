"""What the checker must know of each instruction that compiled code executes."""

from __future__ import annotations

import numpy as np

from . import shadow as sh

_STRONG = {"volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"}
_TENSOR = {
    "tcgen05.wait::ld": sh.I_LOADS, "tcgen05.wait::st": sh.I_STORES,
    "tcgen05.fence::before_thread_sync": sh.I_BEFORE, "tcgen05.fence::after_thread_sync": sh.I_AFTER,
}  # fmt: skip
_PRIVATE = {"param", "param::entry", "const", "local"}


def instruction_marks(instructions) -> np.ndarray:
    """int32[instructions]: flags I_*."""
    return np.array([_marks(inst) for inst in instructions] + [0], np.int32)


def _marks(inst) -> int:
    name, parts = inst.name, set(inst.parts)
    if name in ("ld", "ldu", "st", "atom", "red"):
        flags = sh.I_SKIP if parts & _PRIVATE else 0
        if name in ("atom", "red") or parts & _STRONG:
            flags |= sh.I_STRONG
        return flags
    if name.startswith("fence.proxy.async") or (name == "fence.proxy" and any(p.startswith("async") for p in parts)):
        return sh.I_PROXY
    if name == "fence.mbarrier_init":
        return sh.I_INIT_FENCE
    if name in _TENSOR:
        return _TENSOR[name]
    if name == "bar.warp.sync":
        return sh.I_WARP_SYNC
    if name in ("fence", "membar"):
        return sh.I_FENCE
    return 0
