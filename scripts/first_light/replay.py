"""What the isolated processes run: a micro-kernel, on the GPU or in the emulator."""

from __future__ import annotations

from scripts import crosscheck_gpu
from scripts.crosscheck_cases import Case, replay_in_emulator

NOT_HERE = "not applicable here"


def on_emulator(case: Case) -> list[bytes]:
    """The bytes of the case's buffers afterwards."""
    return replay_in_emulator(case)


def on_gpu(case: Case) -> list[bytes] | str:
    """As on_emulator; or why this GPU has not what the case needs."""
    gpu = crosscheck_gpu.Gpu()
    if case.needs_blackwell and not gpu.has_tcgen05:
        return f"needs tcgen05 and CTA pairs, the GPU is {gpu.target}"
    return gpu.replay(case)
