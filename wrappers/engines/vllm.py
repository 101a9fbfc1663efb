"""vLLM's attention backend `BLACKWELL_MLA` on `mla_decode`, for vLLM 0.33 (and the CPU build 0.32).

vLLM's own code prefills, absorbs the projections, quantises queries and writes the cache; what is here decodes. The
contract is that of vllm/model_executor/layers/attention/mla_attention.py and vllm/v1/attention/backend.py.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.attention.mla_attention import (
    MLACommonBackend,
    MLACommonDecodeMetadata,
    MLACommonImpl,
    MLACommonMetadata,
    MLACommonMetadataBuilder,
    QueryLenSupport,
)
from vllm.v1.attention.backend import AttentionCGSupport, AttentionType
from vllm.v1.kv_cache_interface import is_quantized_kv_cache
from vllm.v1.worker.workspace import current_workspace_manager

from mla.config import HEAD_DIM, LATENT_DIM, PAGE_SIZES, ROPE_DIM
from wrappers.backends import KERNEL_ARCHS
from wrappers.call import OUTPUT_DTYPES
from wrappers.decode import mla_decode, workspace_bytes
from wrappers.engines.settings import VLLM_NAME, engine_backend
from wrappers.warm_up import ServerShapes, warm_up

# vLLM's names of cache dtypes -> the cache's dtype, None for that of the model.
CACHE_DTYPES = {
    "auto": None,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
}


@dataclass
class DecodeMetadata(MLACommonDecodeMetadata):
    """What ragged queries need besides: `query_start_loc` [num_decodes + 1] int32 on the device, and the most query
    tokens a request may have. Under decode context parallelism `seq_lens` are this rank's, `dcp_tot_seq_lens` all
    ranks'."""

    query_start_loc: torch.Tensor | None = None
    max_query_len: int = 1


@dataclass
class Metadata(MLACommonMetadata):
    pass


class MetadataBuilder(MLACommonMetadataBuilder):
    # The kernels read every boundary and length on the device, so ALWAYS would be the honest claim; no replay of a
    # captured graph on a GPU has shown it yet.
    _cudagraph_support: ClassVar[AttentionCGSupport] = AttentionCGSupport.UNIFORM_BATCH
    query_len_support: ClassVar[QueryLenSupport] = QueryLenSupport.VARLEN
    supports_non_causal_multi_token_decode: ClassVar[bool] = True
    supports_non_causal_multi_token_dcp: ClassVar[bool] = True

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device):
        super().__init__(kv_cache_spec, layer_names, vllm_config, device, Metadata, supports_dcp_with_varlen=True)

    def _build_decode(
        self,
        block_table_tensor: torch.Tensor,
        seq_lens_device: torch.Tensor,
        max_seq_len: int,
        query_start_loc_cpu: torch.Tensor,
        query_start_loc_device: torch.Tensor,
        num_decode_tokens: int,
        max_query_len: int,
        dcp_tot_seq_lens_device: torch.Tensor | None,
    ) -> DecodeMetadata:
        return DecodeMetadata(
            block_table=block_table_tensor, seq_lens=seq_lens_device, dcp_tot_seq_lens=dcp_tot_seq_lens_device,
            query_start_loc=query_start_loc_device, max_query_len=max_query_len,
        )  # fmt: skip


class BlackwellMLABackend(MLACommonBackend):
    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16]
    supported_kv_cache_dtypes: ClassVar[list[str]] = list(CACHE_DTYPES)

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[int]:
        return list(PAGE_SIZES)

    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        return [HEAD_DIM]

    @staticmethod
    def get_name() -> str:
        return VLLM_NAME

    @staticmethod
    def get_impl_cls() -> type[BlackwellMLAImpl]:
        return BlackwellMLAImpl

    @staticmethod
    def get_builder_cls() -> type[MetadataBuilder]:
        return MetadataBuilder

    @classmethod
    def supports_compute_capability(cls, capability: Any) -> bool:
        return (capability.major, capability.minor) in KERNEL_ARCHS

    @classmethod
    def supports_non_causal(cls) -> bool:
        return True

    @classmethod
    def supports_combination(
        cls,
        head_size: int,
        dtype: torch.dtype,
        kv_cache_dtype: str | None,
        block_size: int | None,
        use_mla: bool,
        has_sink: bool,
        use_sparse: bool,
        use_mm_prefix: bool,
        device_capability: Any,
    ) -> str | None:
        cache = CACHE_DTYPES.get(kv_cache_dtype or "auto") or dtype
        if cache == torch.float8_e4m3fn and dtype != torch.bfloat16:
            return f"{VLLM_NAME}: an fp8 cache needs a bfloat16 model, its output is bfloat16"
        if cache not in (dtype, torch.float8_e4m3fn):
            return f"{VLLM_NAME}: a {cache} cache needs a model of that dtype"
        return None


class BlackwellMLAImpl(MLACommonImpl):
    can_return_lse_for_decode: bool = True
    lse_base_on_e: bool = True
    supports_dcp: bool = True
    supports_mtp_with_cp_non_trivial_interleave_size: bool = True
    # Prefill context parallelism has not been tried.
    supports_pcp: bool = False

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        alibi_slopes: list[float] | None,
        sliding_window: int | None,
        kv_cache_dtype: str,
        logits_soft_cap: float | None,
        attn_type: str,
        kv_sharing_target_layer_name: str | None,
        **mla_args: Any,
    ):
        refused = {"alibi_slopes": alibi_slopes, "sliding_window": sliding_window, "logits_soft_cap": logits_soft_cap}
        refused |= {"sinks": mla_args.pop("sinks", None), "indexer": mla_args.get("indexer")}
        for name, value in refused.items():
            if value is not None:
                raise NotImplementedError(f"{name}: {VLLM_NAME} does not support it")
        if attn_type != AttentionType.DECODER:
            raise NotImplementedError(f"attn_type={attn_type!r}: {VLLM_NAME} is for decoders only")
        super().__init__(
            num_heads, head_size, scale, num_kv_heads, alibi_slopes, sliding_window, kv_cache_dtype, logits_soft_cap,
            attn_type, kv_sharing_target_layer_name, **mla_args,
        )  # fmt: skip
        dims = {"kv_lora_rank": (self.kv_lora_rank, LATENT_DIM), "qk_rope_head_dim": (self.qk_rope_head_dim, ROPE_DIM)}
        for name, (value, needed) in dims.items():
            if value != needed:
                raise NotImplementedError(f"{name}={value}: {VLLM_NAME} needs {needed}")
        config = get_current_vllm_config()
        # The interleave is resolved after the model is made.
        self._parallel_config = config.parallel_config
        self._backend = engine_backend()
        self._prepare_kernels(config)

    def _prepare_kernels(self, config: Any) -> None:
        """Compiles what decoding will run, where that is known by now; anything else is compiled when it first runs."""
        device = torch.device(config.device_config.device_type)
        if (device.type == "cuda" and self._backend != "torch") or self._backend == "emulator":
            spec = config.speculative_config
            cache_dtype = CACHE_DTYPES.get(self.kv_cache_dtype) or config.model_config.dtype
            page_size, most_tokens = config.cache_config.block_size, 1 + (spec.num_speculative_tokens if spec else 0)
            if page_size in PAGE_SIZES:
                for shapes in decode_shapes(
                    cache_dtype, self.num_heads, page_size, most_tokens, self.dcp_world_size,
                    self._parallel_config.cp_kv_cache_interleave_size,
                ):  # fmt: skip
                    prepare(shapes, device)

    def _workspace(self, device: torch.device) -> torch.Tensor | None:
        """vLLM's scratch memory, which it sizes while profiling and locks before graphs are captured. Its CPU worker
        has none, and `mla_decode` allocates."""
        if device.type != "cuda" or self._backend == "torch":
            return None
        return current_workspace_manager().get_simultaneous(((workspace_bytes(device),), torch.uint8))[0]

    def reserve_workspace(self) -> None:
        """While vLLM profiles memory."""
        self._workspace(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def forward_mqa(
        self,
        q: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        kv_c_and_k_pe_cache: torch.Tensor,
        attn_metadata: Metadata,
        layer: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """q: [T, H, 576], or its parts of 512 and 64; cache [pages, page_size, 576]. Returns `(o [T, H, 512],
        lse [T, H] float32, base e, or None)`. The H of a call is larger than `num_heads` where ranks gather heads."""
        query = torch.cat(q, dim=-1) if isinstance(q, tuple) else q
        decode, requests = attn_metadata.decode, attn_metadata.num_decodes
        lengths, shard = decode.seq_lens, {}
        if self.dcp_world_size > 1:
            lengths = decode.dcp_tot_seq_lens
            shard = {"dcp_world": self.dcp_world_size, "dcp_rank": self.dcp_rank}
            shard["dcp_interleave"] = self._parallel_config.cp_kv_cache_interleave_size
        scales = {"softmax_scale": self.scale}
        if is_quantized_kv_cache(self.kv_cache_dtype):
            scales["softmax_scale"] *= layer._q_scale_float * layer._k_scale_float
            scales["output_scale"] = layer._k_scale_float
        # A block that is not causal stands alone in its batch, and only there may it exceed what the builder calls a
        # decode.
        most_tokens = decode.max_query_len if attn_metadata.causal else attn_metadata.max_query_len
        is_uniform = most_tokens == 1 and len(query) == requests
        ragged, memory = {}, {}
        if not is_uniform:
            ragged = {"cu_seqlens_q": decode.query_start_loc, "max_seq_len_q": most_tokens}
            memory = padded_memory(query, self.need_to_return_lse_for_decode)
        result = mla_decode(
            query.unsqueeze(1) if is_uniform else query, kv_c_and_k_pe_cache, decode.block_table, lengths, **scales,
            is_causal=attn_metadata.causal, return_lse=self.need_to_return_lse_for_decode,
            workspace=self._workspace(query.device), backend=self._backend, **shard, **ragged, **memory,
        )  # fmt: skip
        out, lse = result if self.need_to_return_lse_for_decode else (result, None)
        flat = query.shape[:2]
        return out.view(*flat, LATENT_DIM), None if lse is None else lse.view(flat)


def padded_memory(query: torch.Tensor, return_lse: bool) -> dict[str, torch.Tensor]:
    """`out` and `lse` of a ragged query [T, H, 576] for which tokens behind the last request's are 0 and -inf: a batch
    that is padded for a graph has such, and what they hold must not reach a scale over all tokens."""
    dtype = OUTPUT_DTYPES.get(query.dtype, query.dtype)
    memory = {"out": torch.zeros(*query.shape[:2], LATENT_DIM, dtype=dtype, device=query.device)}
    if return_lse:
        memory["lse"] = torch.full(query.shape[:2], -torch.inf, dtype=torch.float32, device=query.device)
    return memory


def decode_shapes(
    dtype: torch.dtype, num_heads: int, page_size: int, most_tokens: int, dcp_world: int, dcp_interleave: int
) -> list[ServerShapes]:
    """The kernels of a server: one query token each, and ragged ones of up to each power of two."""
    shared = {
        "dtype": dtype, "num_heads": num_heads * dcp_world, "page_size": page_size, "dcp_world": dcp_world,
        "dcp_interleave": dcp_interleave, "lse_bases": ("e",) if dcp_world > 1 else (None,),
    }  # fmt: skip
    powers = [1 << power for power in range(1, (most_tokens - 1).bit_length() + 1)]
    shapes = [ServerShapes(**shared)]
    return [*shapes, ServerShapes(**shared, seq_lens_q=tuple(powers), ragged=(True,))] if powers else shapes


@functools.cache
def prepare(shapes: ServerShapes, device: torch.device) -> None:
    """Once for all layers of a model."""
    warm_up(shapes, device)
