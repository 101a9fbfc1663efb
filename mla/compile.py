"""Compile a decode kernel for one of `mla.arch.ARCHS`. Needs no GPU."""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass.cute.runtime import make_fake_stream, make_fake_tensor
from cutlass.cutlass_dsl import CuTeDSL

from mla import store
from mla.arch import ARCHS, CUDA13_ARCHS, TMA_ALIGN_BYTES
from mla.config import MlaDecodeConfig
from mla.decode import MlaDecode
from mla.operands import ELEMENT_TYPE
from mla.store import CompiledDecode

_compiled: dict[MlaDecodeConfig, CompiledDecode] = {}
# The compiler keeps its state in one object per process.
_compiling = threading.Lock()


def compile_decode(config: MlaDecodeConfig) -> CompiledDecode:
    """The kernel of `config`: from this process, else from the compile cache (`mla.store`), else compiled."""
    if config not in _compiled:
        with _compiling:
            if config not in _compiled:
                kernel = store.load_cached(config)
                if kernel is None:
                    kernel = compile_kernel(MlaDecode(config))
                    store.save_cached(kernel)
                _compiled[config] = kernel
    return _compiled[config]


def is_compiled(config: MlaDecodeConfig) -> bool:
    """Whether this process has the kernel of `config`, so that `compile_decode` neither compiles nor reads a file."""
    return config in _compiled


def export(config: MlaDecodeConfig, folder: Path) -> Path:
    """Compiles `config` and writes it to a folder of its own under `folder`, for `load_exported`; returns that one.

    Raises ValueError where it cannot be written.
    """
    with _compiling:
        return store.save(compile_kernel(MlaDecode(config)), folder)


def load_exported(folder: Path) -> list[MlaDecodeConfig]:
    """Makes `compile_decode` take the kernels that `export` has written under `folder`; returns their configs.

    Raises ValueError where there are none or one of them cannot be used here.
    """
    kernels = [store.load(file.parent) for file in sorted(Path(folder).glob(f"[!.]*/{store.DESCRIPTION}"))]
    if not kernels:
        raise ValueError(f"{folder}: holds no exported kernels")
    _compiled.update((kernel.config, kernel) for kernel in kernels)
    return [kernel.config for kernel in kernels]


def compile_kernel(kernel: MlaDecode) -> CompiledDecode:
    """Compile, uncached (keeping artefacts turns the DSL's own caches off).

    Raises ValueError where the compiler's build does not know the architecture, and where there is no room for temporary
    files, a few MB.
    """
    arch = kernel.config.arch
    check_arch(arch)
    try:
        with tempfile.TemporaryDirectory(prefix="mla-compile-") as folder, _keep_ir(folder):
            options = f"--enable-tvm-ffi --keep-ptx --keep-cubin --gpu-arch {arch} --dump-dir {folder}"
            host = cute.compile(kernel, *fake_arguments(kernel.config), options=options)
            artifacts = host.artifacts
            check_whole(artifacts.PTX.rstrip("\0"), artifacts.CUBIN)
    except OSError as error:
        raise ValueError(
            f"TMPDIR={os.environ.get('TMPDIR', '')!r}: compiling needs a few MB of temporary files ({error})"
        ) from error
    return CompiledDecode(kernel.config, host, artifacts.PTX.rstrip("\0"), artifacts.MLIR, artifacts.CUBIN)


def compilable_archs() -> tuple[str, ...]:
    """Those that the installed compiler can compile for."""
    return tuple(arch for arch in ARCHS if arch not in CUDA13_ARCHS or store.cuda13_build() is not None)


def check_arch(arch: str) -> None:
    """ValueError for one of `ARCHS` that the installed compiler cannot compile for."""
    if arch not in compilable_archs():
        raise ValueError(f"arch={arch!r}: needs the CUDA 13 build of the compiler: pip install 'blackwell-mla[cu13]'")


def check_whole(ptx: str, cubin: bytes) -> None:
    """OSError where text or cubin is cut short: where there is no room left, the DSL's writer says nothing."""
    if not ptx.strip() or ptx.count("{") != ptx.count("}"):
        raise OSError(f"the PTX is cut short, after {len(ptx)} characters")
    store.check_elf("the cubin", cubin)


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
        return cute.sym_int64(divisibility=TMA_ALIGN_BYTES // element_bytes)

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
    window_left = cutlass.Int32(0) if config.sliding_window else None
    visible_lens = None
    if config.visible_lens:
        strides = (cute.sym_int64(), cute.sym_int64())
        visible_lens = make_fake_tensor(cutlass.Int32, tokens, strides, assumed_align=4)
    numbers = (cutlass.Int32(1), *scales(config))
    modes = cu_seqlens_q, tree_mask, dcp_rank, window_left, visible_lens
    return query, cache, tables, lens, out, lse, workspace, *numbers, *modes, stream


def scales(config: MlaDecodeConfig) -> list[Any]:
    """softmax_scale and output_scale, each a number or a one-element tensor."""
    on_device = (config.softmax_scale_on_device, config.output_scale_on_device)
    return [
        make_fake_tensor(cutlass.Float32, (1,), (1,), assumed_align=4) if is_tensor else cutlass.Float32(1.0)
        for is_tensor in on_device
    ]
