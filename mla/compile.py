"""Compile a decode kernel for sm_100a / sm_103a. Needs no GPU."""

from __future__ import annotations

import functools
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass.cutlass_dsl import CuTeDSL
from cutlass.cute.runtime import make_fake_stream, make_fake_tensor

from mla.arch import TMA_STRIDE_BYTES
from mla.config import MlaDecodeConfig
from mla.decode import MlaDecode
from mla.operands import ELEMENT_TYPE


@dataclass(frozen=True)
class CompiledDecode:
    """What the DSL emitted for one config.

    host:  the DSL's own host function. On a machine with the target GPU, call it with
           (query, kv_cache, block_tables, seq_lens, out, lse or None, workspace, num_ctas, softmax_scale,
           output_scale, cu_seqlens_q or None, tree_mask or None, dcp_rank or None); tensors may be torch CUDA tensors
           (tvm-ffi), the launch goes to the caller's current stream.
    ptx, ir: text. cubin: bytes.
    """

    config: MlaDecodeConfig
    host: Any = field(repr=False)
    ptx: str = field(repr=False)
    ir: str = field(repr=False)
    cubin: bytes = field(repr=False)


@functools.cache
def compile_decode(config: MlaDecodeConfig) -> CompiledDecode:
    """Compile once per config and process."""
    return compile_kernel(MlaDecode(config))


def compile_kernel(kernel: MlaDecode) -> CompiledDecode:
    """Compile, uncached (keeping artefacts turns the DSL's own caches off)."""
    with tempfile.TemporaryDirectory(prefix="mla-compile-") as folder, _keep_ir(folder):
        options = f"--enable-tvm-ffi --keep-ptx --keep-cubin --gpu-arch {kernel.config.arch} --dump-dir {folder}"
        host = cute.compile(kernel, *fake_arguments(kernel.config), options=options)
        artifacts = host.artifacts
    return CompiledDecode(kernel.config, host, artifacts.PTX.rstrip("\0"), artifacts.MLIR, artifacts.CUBIN)


@contextmanager
def _keep_ir(folder: str) -> Any:
    """Have the DSL write the IR text to `folder`: no compile option does that, only an environment variable which the
    DSL has read once, long ago, into this object.
    """
    settings = CuTeDSL._get_dsl().envar
    saved = settings.keep_ir_clean, settings.dump_dir
    settings.keep_ir_clean, settings.dump_dir = True, folder
    try:
        yield
    finally:
        settings.keep_ir_clean, settings.dump_dir = saved


def fake_arguments(config: MlaDecodeConfig) -> tuple[Any, ...]:
    """Stand-ins for the host function's arguments: dynamic sizes and strides, contiguous last dimension."""
    element = ELEMENT_TYPE[config.dtype]
    batch, pages, table_width = cute.sym_int(), cute.sym_int(), cute.sym_int()

    def aligned(element_bytes: int) -> Any:
        return cute.sym_int64(divisibility=TMA_STRIDE_BYTES // element_bytes)

    def stride() -> Any:
        return aligned(config.element_bytes)

    tokens = (1, cute.sym_int()) if config.ragged_query else (batch, config.seq_len_q)
    rows = (*tokens, config.num_heads)
    query = make_fake_tensor(element, (*rows, config.head_dim), (stride(), stride(), stride(), 1), assumed_align=16)
    cache = make_fake_tensor(
        element, (pages, config.page_size, config.head_dim), (stride(), stride(), 1), assumed_align=16
    )
    tables = make_fake_tensor(cutlass.Int32, (batch, table_width), (cute.sym_int64(), 1), assumed_align=4)
    lens = make_fake_tensor(cutlass.Int32, (batch,), (cute.sym_int64(),), assumed_align=4)
    out = make_fake_tensor(
        ELEMENT_TYPE[config.output_dtype],
        (*rows, config.kv_lora_rank),
        (aligned(config.output_bytes), aligned(config.output_bytes), aligned(config.output_bytes), 1),
        assumed_align=16,
    )
    lse = None
    if config.lse_base is not None:
        lse = make_fake_tensor(
            cutlass.Float32, rows, (cute.sym_int64(), cute.sym_int64(), cute.sym_int64()), assumed_align=4
        )
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    workspace = make_fake_tensor(cutlass.Float32, (cute.sym_int64(),), (1,), assumed_align=16)
    cu_seqlens_q = None
    if config.ragged_query:
        cu_seqlens_q = make_fake_tensor(cutlass.Int32, (cute.sym_int(),), (1,), assumed_align=4)
    tree_mask = None
    if config.tree_mask:
        tree_mask = make_fake_tensor(
            cutlass.Int32, (*tokens, cute.sym_int()), (cute.sym_int64(), cute.sym_int64(), 1), assumed_align=4
        )
    dcp_rank = cutlass.Int32(0) if config.dcp_world > 1 else None
    numbers = (cutlass.Int32(1), *scales(config))
    return query, cache, tables, lens, out, lse, workspace, *numbers, cu_seqlens_q, tree_mask, dcp_rank, stream


def scales(config: MlaDecodeConfig) -> list[Any]:
    """softmax_scale and output_scale, each a number or a one-element tensor."""
    on_device = (config.softmax_scale_on_device, config.output_scale_on_device)
    return [
        make_fake_tensor(cutlass.Float32, (1,), (1,), assumed_align=4) if is_tensor else cutlass.Float32(1.0)
        for is_tensor in on_device
    ]
