"""SGLang's attention backend `blackwell_mla` on `mla_decode`, for SGLang 0.5.23.

On a GPU it is SGLang's own CuTe DSL MLA backend with another kernel behind `_run_decode_kernel`: preparation, cache
writes, CUDA-graph state and prefill (trtllm-gen, of FlashInfer) are SGLang's. On a CPU, for verification, it is
SGLang's torch backend with another decode.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from mla.config import LATENT_DIM, PAGE_SIZES, ROPE_DIM
from wrappers.decode import mla_decode, workspace_bytes
from wrappers.engines.settings import SGLANG_NAME, engine_backend
from wrappers.warm_up import ServerShapes, warm_up


def register() -> None:
    from sglang.srt.arg_groups.choices import ATTENTION_BACKEND_CHOICES, add_attention_backend_choices
    from sglang.srt.layers.attention.attention_registry import register_attention_backend
    from sglang.srt.models.deepseek_common.attention_backend_handler import AttentionBackendRegistry
    from sglang.srt.models.deepseek_common.attention_forward_methods import AttnForwardMethod
    from sglang.srt.models.deepseek_common.utils import FORWARD_ABSORB_CORE_ATTENTION_BACKENDS

    if SGLANG_NAME in ATTENTION_BACKEND_CHOICES:
        return
    add_attention_backend_choices([SGLANG_NAME])
    register_attention_backend(SGLANG_NAME)(create_backend)
    if torch.cuda.is_available():
        # As its parent: the rotary parts come apart from the rest, and a prompt goes through trtllm-gen's prefill.
        FORWARD_ABSORB_CORE_ATTENTION_BACKENDS.append(SGLANG_NAME)
        AttentionBackendRegistry.register(SGLANG_NAME, AttentionBackendRegistry.get_handler("trtllm_mla"))
    else:
        AttentionBackendRegistry.register(SGLANG_NAME, lambda attn, forward_batch: AttnForwardMethod.MLA)


def create_backend(runner: Any) -> Any:
    check_model(runner)
    return (gpu_backend if torch.device(runner.device).type == "cuda" else cpu_backend)()(runner)


def check_model(runner: Any) -> None:
    """ValueError, by name, for what the kernels cannot do."""
    if not runner.use_mla_backend:
        raise ValueError(f"{SGLANG_NAME}: is for MLA models")
    config = runner.model_config
    for name, needed in (("kv_lora_rank", LATENT_DIM), ("qk_rope_head_dim", ROPE_DIM)):
        if getattr(config, name) != needed:
            raise ValueError(f"{name}={getattr(config, name)}: {SGLANG_NAME} needs {needed}")
    if runner.page_size not in PAGE_SIZES:
        raise ValueError(f"--page-size {runner.page_size}: {SGLANG_NAME} needs one of {PAGE_SIZES}")
    if runner.kv_cache_dtype not in (runner.dtype, torch.float8_e4m3fn):
        raise ValueError(f"--kv-cache-dtype {runner.kv_cache_dtype}: must be fp8_e4m3 or the model's, {runner.dtype}")
    if runner.kv_cache_dtype == torch.float8_e4m3fn and runner.dtype != torch.bfloat16:
        raise ValueError(f"--dtype {runner.dtype}: an fp8 cache needs bfloat16, its output is bfloat16")


@functools.cache
def workspace(device: torch.device) -> torch.Tensor:
    """One for all layers and instances on a device, whose launches are ordered. SGLang's own holds counters."""
    return torch.empty(workspace_bytes(device), dtype=torch.uint8, device=device)


def kernel_workspace(query: torch.Tensor) -> torch.Tensor | None:
    backend = engine_backend()
    uses_kernel = backend in ("cute", "emulator") or (backend == "auto" and query.device.type == "cuda")
    return workspace(query.device) if uses_kernel else None


@functools.cache
def prepare(shapes: ServerShapes, device: torch.device) -> None:
    warm_up(shapes, device)


@functools.cache
def gpu_backend() -> type:
    """Made on use: the parent imports FlashInfer and Triton."""
    from sglang.srt.layers.attention.cutedsl_mla_backend import CuteDslMLABackend
    from sglang.srt.models.deepseek_common.attention_forward_methods.forward_mla import is_mla_dcp_lse_base_on_e
    from sglang.srt.runtime_context import get_parallel

    class BlackwellMLABackend(CuteDslMLABackend):
        def __init__(self, model_runner: Any, *arguments: Any, **options: Any):
            super().__init__(model_runner, *arguments, **options)
            # SGLang decides by the backend's name how it merges ranks; names it does not know are base 2.
            self.lse_base = "e" if is_mla_dcp_lse_base_on_e(SGLANG_NAME) else "2"
            if engine_backend() != "torch":
                world = get_parallel().dcp_size if get_parallel().dcp_enabled else 1
                shapes = ServerShapes(
                    self.data_type, self.num_decode_q_heads, self.page_size,
                    seq_lens_q=tuple(sorted({1, self.num_draft_tokens or 1})),
                    lse_bases=(self.lse_base,) if world > 1 else (None,), dcp_world=world,
                )  # fmt: skip
                prepare(shapes, torch.device(model_runner.device))

        def _run_decode_kernel(
            self,
            query: torch.Tensor,
            kv_cache: torch.Tensor,
            block_tables: torch.Tensor,
            seq_lens: torch.Tensor,
            max_seq_len: int,
            layer: Any,
            *,
            causal_seqs: torch.Tensor | None = None,
            cp_world: int = 1,
            cp_rank: int = 0,
            return_lse: bool = False,
        ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
            """query [B, Q, H, 576], cache [pages, 1, page_size, 576], `seq_lens` this rank's and `causal_seqs` all
            ranks' lengths. Returns out [B, Q, H, 512] or `(out, lse [B, Q, H] float32)`. The scale is SGLang's, which
            puts the cache's on the scores and none on the output."""
            if cp_world > 1 and causal_seqs is None:
                raise ValueError(f"causal_seqs is None: cp_world={cp_world} needs it, the lengths of all ranks")
            lengths = causal_seqs if cp_world > 1 else seq_lens
            return mla_decode(
                query, kv_cache, block_tables, lengths.to(torch.int32),
                softmax_scale=self._compute_decode_bmm1_scale(layer), return_lse=return_lse or cp_world > 1,
                lse_base=self.lse_base, dcp_world=cp_world, dcp_rank=cp_rank, workspace=kernel_workspace(query),
                backend=engine_backend(),
            )  # fmt: skip

    return BlackwellMLABackend


@functools.cache
def cpu_backend() -> type:
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
    from sglang.srt.mem_cache.memory_pool import KVWriteLoc

    class BlackwellMLACpuBackend(TorchNativeAttnBackend):
        def __init__(self, model_runner: Any):
            super().__init__(model_runner)
            self.page_size = model_runner.page_size

        def forward_decode(
            self,
            q: torch.Tensor,
            k: torch.Tensor | None,
            v: torch.Tensor | None,
            layer: Any,
            forward_batch: Any,
            save_kv_cache: bool = True,
        ) -> torch.Tensor:
            """q [B, H * 576]: one token of each request. Returns [B, H * 512]."""
            if save_kv_cache and k is not None:
                place = KVWriteLoc(forward_batch.out_cache_loc, self.swa_out_cache_loc)
                self.token_to_kv_pool.set_kv_buffer(layer, place, k, v)
            query = q.reshape(-1, 1, layer.tp_q_head_num, layer.qk_head_dim)
            slots = self.token_to_kv_pool.get_key_buffer(layer.layer_id)
            cache = slots.view(-1, self.page_size, layer.qk_head_dim)
            out = mla_decode(
                query, cache, self.block_tables(forward_batch), forward_batch.seq_lens.to(torch.int32),
                softmax_scale=layer.scaling, workspace=kernel_workspace(query), backend=engine_backend(),
            )  # fmt: skip
            return out.view(len(query), -1)

        def block_tables(self, forward_batch: Any) -> torch.Tensor:
            """[B, W] int32: the page of each request's every `page_size`-th token. Rows are as wide as the longest
            request that fits."""
            slots = self.req_to_token_pool.req_to_token[forward_batch.req_pool_indices]
            return (slots[:, :: self.page_size] // self.page_size).to(torch.int32)

    return BlackwellMLACpuBackend
