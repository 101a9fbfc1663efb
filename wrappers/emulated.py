"""The `emulator` backend: the compiled kernel's PTX, executed on the CPU. The only user of `ptx_emulator` here.

For verification: it runs what the GPU would run, instruction by instruction, many orders of magnitude slower.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from mla.compile import CompiledDecode
from ptx_emulator import cute_abi
from wrappers.kernel import kernel_arguments
from wrappers.validate import DecodeCall


def launch(
    kernel: CompiledDecode, call: DecodeCall, out: torch.Tensor, lse: torch.Tensor | None, **options: Any
) -> Any:
    """Executes `kernel` on CPU tensors and returns the emulator's report of the launch.

    `out` and `lse` are filled with NaN first, so that an element the kernel does not write is seen. `options` go to
    `ptx_emulator.launch` (`order`, `seed`, ...).
    """
    out.fill_(math.nan)
    if lse is not None:
        lse.fill_(math.nan)
    (report,) = cute_abi.launch(kernel.ir, kernel.ptx, kernel_arguments(call, out, lse), **options)
    return report
