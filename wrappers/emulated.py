"""The `emulator` backend: the compiled kernels' PTX, executed on the CPU. The only user of `ptx_emulator` here.

For verification: it runs what the GPU would run, instruction by instruction, many orders of magnitude slower.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from mla.compile import CompiledDecode
from ptx_emulator import Report, cute_abi
from wrappers.call import DecodeCall
from wrappers.kernel import EMULATED_CTAS, kernel_arguments, packed, workspace_of

# What reports call the tensors that `kernel_arguments` gives, in its order.
ARGUMENTS = (
    "query", "kv_cache", "block_tables", "seq_lens", "out", "lse", "workspace", "num_ctas", "softmax_scale",
    "output_scale", "cu_seqlens_q", "tree_mask", "dcp_rank", "window_left", "visible_lens",
)  # fmt: skip


class DecodeReports(NamedTuple):
    """The emulator's reports of a call's two launches: the decode kernel, and the merge of split row tiles."""

    decode: Report
    merge: Report


def launch(
    kernel: CompiledDecode,
    call: DecodeCall,
    *,
    num_ctas: int = EMULATED_CTAS,
    **options: Any,
) -> DecodeReports:
    """Executes `kernel` on CPU tensors, on a GPU of `num_ctas` SMs.

    The rows of the call's out and lse, and a workspace that the call does not bring, are filled with NaN first, so that an
    element the kernel does not write is seen. `options` go to `ptx_emulator.launch` (`order`, `seed`, `checks`,
    `step_limit`, `time_limit`, ...).
    """
    if kernel.config.is_wide and num_ctas < 2:
        raise ValueError(f"num_ctas={num_ctas}: the wide path needs at least 2, it works in pairs")
    workspace = workspace_of(call, num_ctas)
    if call.workspace is None:
        workspace.fill_(math.nan)
    # Behind the tokens of a ragged query is memory that a call does not write.
    written = slice(None) if call.cu_seqlens_q is None else slice(max(0, int(call.cu_seqlens_q[-1])))
    call.out[written].fill_(math.nan)
    if call.lse is not None:
        call.lse[written].fill_(math.nan)
    arguments = kernel_arguments(packed(kernel.config, call), workspace, num_ctas)
    names = {name: value for name, value in zip(ARGUMENTS, arguments, strict=True) if isinstance(value, torch.Tensor)}
    return DecodeReports(*cute_abi.launch(kernel.ir, kernel.ptx, arguments, names=names, **options))
