"""The names of vLLM 0.33.0 that `wrappers.engines.vllm` imports, with as little behind them as it needs.

Parameters and fields are recorded (`wrappers.compat.recorded.CONTRACTS`; MLACommonMetadata in
vllm/model_executor/layers/attention/mla_attention.py). The real engine runs in scripts/test_engines.sh.
"""

from __future__ import annotations

import enum
import types
from dataclasses import dataclass
from typing import Any

import torch


class AttentionCGSupport(enum.Enum):
    ALWAYS, UNIFORM_BATCH = 3, 2


class QueryLenSupport(enum.Enum):
    UNIFORM, VARLEN = "uniform", "varlen"


class AttentionType:
    DECODER, ENCODER_ONLY = "decoder", "encoder_only"


class AttentionBackendEnum(enum.Enum):
    CPU_MLA = "vllm.v1.attention.backends.mla.cpu_mla.CPUMLABackend"


class MLACommonBackend:
    pass


@dataclass
class MLACommonDecodeMetadata:
    block_table: torch.Tensor
    seq_lens: torch.Tensor
    dcp_tot_seq_lens: torch.Tensor | None


@dataclass
class MLACommonMetadata:
    num_reqs: int
    max_query_len: int
    max_seq_len: int
    num_actual_tokens: int
    query_start_loc: torch.Tensor
    slot_mapping: torch.Tensor
    num_decodes: int
    num_decode_tokens: int
    num_prefills: int
    causal: bool = True
    head_dim: int | None = None
    prefill: Any = None
    decode: Any = None


class MLACommonMetadataBuilder:
    def __init__(
        self, kv_cache_spec, layer_names, vllm_config, device, metadata_cls=None, supports_dcp_with_varlen=False
    ):
        self.metadata_cls, self.supports_dcp_with_varlen = metadata_cls, supports_dcp_with_varlen


class MLACommonImpl:
    """`dcp_world_size`, `dcp_rank` and `need_to_return_lse_for_decode` are what the base class finds in the process
    groups; tests set them on the class."""

    dcp_world_size, dcp_rank, need_to_return_lse_for_decode = 1, 0, False

    def __init__(
        self, num_heads, head_size, scale, num_kv_heads, alibi_slopes, sliding_window, kv_cache_dtype, logits_soft_cap,
        attn_type, kv_sharing_target_layer_name, q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim,
        qk_head_dim, v_head_dim, kv_b_proj, indexer=None, q_pad_num_heads=None,
    ):  # fmt: skip
        self.num_heads, self.scale, self.kv_cache_dtype = num_heads, scale, kv_cache_dtype
        self.kv_lora_rank, self.qk_rope_head_dim = kv_lora_rank, qk_rope_head_dim


CONFIG = types.SimpleNamespace(
    parallel_config=types.SimpleNamespace(cp_kv_cache_interleave_size=1),
    speculative_config=types.SimpleNamespace(num_speculative_tokens=3),
    device_config=types.SimpleNamespace(device_type="cpu"),
    cache_config=types.SimpleNamespace(block_size=32),
    model_config=types.SimpleNamespace(dtype=torch.bfloat16),
)
REGISTERED: dict[str, str] = {}


def register_backend(backend, class_path=None, is_mamba=False):
    REGISTERED[backend] = class_path


NAMES = {
    "vllm": {},
    "vllm.config": {"get_current_vllm_config": lambda: CONFIG},
    "vllm.model_executor.layers.attention.mla_attention": {
        each.__name__: each
        for each in (
            MLACommonBackend, MLACommonDecodeMetadata, MLACommonImpl, MLACommonMetadata, MLACommonMetadataBuilder,
            QueryLenSupport,
        )
    },
    "vllm.v1.attention.backend": {"AttentionCGSupport": AttentionCGSupport, "AttentionType": AttentionType},
    "vllm.v1.attention.backends.registry": {
        "AttentionBackendEnum": AttentionBackendEnum, "register_backend": register_backend,
    },
    "vllm.v1.kv_cache_interface": {"is_quantized_kv_cache": lambda name: name.startswith("fp8")},
    "vllm.v1.worker.workspace": {"current_workspace_manager": None},
}  # fmt: skip


def modules() -> dict[str, types.ModuleType]:
    """What to put into `sys.modules`."""
    found = {}
    for name, values in NAMES.items():
        found[name] = types.ModuleType(name)
        vars(found[name]).update(values)
    return found
