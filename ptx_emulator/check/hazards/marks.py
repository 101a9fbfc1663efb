"""What the checker must know of each instruction that compiled code executes."""

from __future__ import annotations

import numpy as np

from . import shadow as sh

_STRONG = {"volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"}
_TENSOR = {
    "tcgen05.wait::ld": sh.I_LOADS, "tcgen05.wait::st": sh.I_STORES,
    "tcgen05.fence::before_thread_sync": sh.I_BEFORE, "tcgen05.fence::after_thread_sync": sh.I_AFTER,
}  # fmt: skip
_SCOPES = {"cta": sh.CTA, "cluster": sh.CLUSTER_SCOPE, "gpu": sh.GPU, "sys": sh.GPU, "gl": sh.GPU}
_PRIVATE = {"param", "param::entry", "const", "local"}


def instruction_marks(instructions) -> np.ndarray:
    """int32[instructions]: flags I_*."""
    return np.array([_marks(inst) for inst in instructions] + [0], np.int32)


def scope_of(inst) -> int:
    """The scope of a strong access or fence; .gpu where none is written (9.7.13.4, 9.7.13.13; volatile is .sys)."""
    return next((_SCOPES[part] for part in inst.parts[1:] if part in _SCOPES), sh.GPU)


def _marks(inst) -> int:
    name, parts = inst.name, set(inst.parts)
    if name in ("ld", "ldu", "st", "atom", "red"):
        flags = sh.I_SKIP if parts & _PRIVATE else 0
        if name in ("atom", "red") or parts & _STRONG:
            flags |= sh.I_STRONG | scope_of(inst) << sh.I_SCOPE
        return flags | (sh.I_CONSTANT if "nc" in parts else 0)
    if name.startswith("fence.proxy.async") or (name == "fence.proxy" and any(p.startswith("async") for p in parts)):
        spaces = {part.partition("::")[0] for part in parts} & {"shared", "global"}
        if any(part.startswith("sync_restrict") for part in parts):
            spaces = {"shared"}
        of = {"shared": sh.I_PROXY_SHARED, "global": sh.I_PROXY_GLOBAL}
        return sh.I_PROXY | sum(of[space] for space in spaces or of)
    if name == "fence.mbarrier_init":
        return sh.I_INIT_FENCE
    if name in _TENSOR:
        return _TENSOR[name]
    if name == "bar.warp.sync":
        return sh.I_WARP_SYNC
    if name in ("fence", "membar"):
        scope = scope_of(inst)
        wide = sh.I_SC if scope >= sh.GPU and (name == "membar" or "sc" in parts) else 0
        return sh.I_FENCE | wide | scope << sh.I_SCOPE
    return 0
