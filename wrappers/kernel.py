"""From a checked call to the compiled kernel of `mla` and its arguments: the one place that knows both sides."""

from __future__ import annotations

from dataclasses import replace

import torch

from mla import compile, split_kv
from mla.compile import CompiledDecode, compile_decode
from mla.config import FLOAT_BYTES, LATENT_DIM, NARROW_ROWS, MlaDecodeConfig
from wrappers.call import DecodeCall
from wrappers.machines import machine_of
from wrappers.validate import check_kernel_workspace

ATOM_ROWS = 8  # of a swizzle: boxes of a multiple of so many rows start where one does
TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
# CTAs of an emulated launch: as many as a B200 has SMs.
EMULATED_CTAS = 148


def decode_config(call: DecodeCall, arch: str, path: str = "auto") -> MlaDecodeConfig:
    """The compile key of the kernel that runs `call`, on the operand path that MlaDecodeConfig chooses or on `path`, as
    the machine needs it (`wrappers.machines`)."""
    machine = machine_of(arch)
    is_packed = query_is_packed(call)
    if "small_boxes" in machine.avoid and call.num_heads % ATOM_ROWS:
        is_packed = True  # by `packed`, before the launch
    dtype, seq_len_q = DTYPE_NAMES[call.query.dtype], call.seq_len_q
    if call.is_ragged:
        seq_len_q = 1 << (seq_len_q - 1).bit_length()
    tuned = {"path": path}
    if path == "auto" and not call.isolate_drafts:  # which has a path of its own
        tuned |= machine.tuned(dtype, seq_len_q * call.num_heads)
    return MlaDecodeConfig(
        dtype=dtype,
        num_heads=call.num_heads,
        seq_len_q=seq_len_q,
        is_causal=call.is_causal and call.local_visible_lens is None,  # which replace the causal rule
        page_size=call.page_size,
        lse_base=call.lse_base if call.return_lse else None,
        query_packed=is_packed,
        softmax_scale_on_device=isinstance(call.softmax_scale, torch.Tensor),
        output_scale_on_device=isinstance(call.output_scale, torch.Tensor),
        ragged_query=call.is_ragged,
        tree_mask=call.tree_mask is not None,
        dcp_world=call.dcp_world,
        dcp_interleave=call.dcp_interleave if call.dcp_world > 1 else 1,
        sliding_window=call.window_left is not None,
        visible_lens=call.local_visible_lens is not None,
        isolate_drafts=call.isolate_drafts and call.has_hidden_keys,
        fp8_output=call.output_dtype == torch.float8_e4m3fn,
        arch=arch,
        avoid=machine.avoid,
        **tuned,
    )


def query_is_packed(call: DecodeCall) -> bool:
    """Whether (token, head) is one mode of the query."""
    token_stride, head_stride = launch_view(batched(call, call.query)).stride()[1:3]
    return token_stride == call.num_heads * head_stride


def packed(config: MlaDecodeConfig, call: DecodeCall) -> DecodeCall:
    """The call with its query as the kernel of `config` reads it: a copy where that is packed and the call's is not, which
    `decode_config` asks for to avoid small boxes alone.
    """
    if not (config.query_packed and config.avoids("small_boxes")) or query_is_packed(call):
        return call
    return replace(call, query=call.query.contiguous())


def compiled(call: DecodeCall, arch: str, path: str = "auto") -> CompiledDecode:
    """The kernel for `call`; the first one of a configuration takes seconds, later ones come from a cache."""
    return compile_decode(decode_config(call, arch, path))


def is_compiled(call: DecodeCall, arch: str) -> bool:
    """Whether `compiled` would return at once."""
    return compile.is_compiled(decode_config(call, arch))


def num_ctas(device: torch.device | str | int | None) -> int:
    """CTAs of a launch: one per SM of a CUDA device, else (None or "cpu") `EMULATED_CTAS`."""
    if device is None or torch.device(device).type == "cpu":
        return EMULATED_CTAS
    return torch.cuda.get_device_properties(device).multi_processor_count


def workspace_bytes(ctas: int) -> int:
    """Bytes of workspace that a launch of `ctas` CTAs needs. Pairs, half as many, have tiles of twice the rows."""
    return split_kv.workspace_bytes(ctas, NARROW_ROWS, LATENT_DIM)


def workspace_of(call: DecodeCall, ctas: int) -> torch.Tensor:
    """The workspace of a launch of `ctas` CTAs, 1D float32: the caller's memory, or new where the call has none."""
    needed = workspace_bytes(ctas)
    if call.workspace is None:
        return torch.empty(needed // FLOAT_BYTES, dtype=torch.float32, device=call.query.device)
    check_kernel_workspace(call.workspace, needed)
    return call.workspace[:needed].view(torch.float32)


def kernel_arguments(call: DecodeCall, workspace: torch.Tensor, ctas: int) -> tuple[object, ...]:
    """What the compiled host function takes for a call with its outputs, in its order; the stream comes from the
    environment."""
    return (
        launch_view(batched(call, call.query)),
        launch_view(call.kv_cache),
        call.block_tables,
        call.seq_lens,
        launch_view(batched(call, call.out)),
        batched(call, call.lse),
        workspace,
        ctas,
        call.softmax_scale,
        call.output_scale,
        call.cu_seqlens_q,
        batched(call, call.tree_mask),
        call.dcp_rank if call.dcp_world > 1 else None,
        call.window_left,
        batched(call, call.local_visible_lens),
    )


def launch(kernel: CompiledDecode, call: DecodeCall) -> None:
    """Launches on the current stream of the query's device, through the DSL's own host function (tvm-ffi)."""
    ctas, call = num_ctas(call.query.device), packed(kernel.config, call)
    with torch.cuda.device(call.query.device):
        kernel.host(*kernel_arguments(call, workspace_of(call, ctas), ctas))


def batched(call: DecodeCall, rows: torch.Tensor | None) -> torch.Tensor | None:
    """What is given per query token, if it is, as [batch, token, ...]: the tokens of a ragged query are one batch."""
    return rows.unsqueeze(0) if call.is_ragged and rows is not None else rows


def launch_view(tensor: torch.Tensor) -> torch.Tensor:
    """The same elements with strides that mean something in every dimension.

    torch leaves the stride of a dimension of size 1 arbitrary, but TMA needs every stride to be a multiple of 16
    bytes, and (token, head) of a query is one mode only where the token stride is num_heads times the head stride.
    Such a dimension gets the stride that makes it compact over the dimension inside it; a single head takes the
    token's stride.
    """
    sizes, strides = list(tensor.shape), list(tensor.stride())
    given = list(strides)
    strides[-1] = 1
    for dim in reversed(range(tensor.dim() - 1)):
        if sizes[dim] == 1:
            strides[dim] = sizes[dim + 1] * strides[dim + 1]
    if tensor.dim() == 4 and sizes[2] == 1 and sizes[1] > 1:
        strides[2] = strides[1]
    return tensor if strides == given else tensor.as_strided(sizes, strides)
