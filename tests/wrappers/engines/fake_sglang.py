"""The names of SGLang 0.5.23 that `wrappers.engines.sglang` imports, with as little behind them as it needs.

Parameters are recorded (`wrappers.compat.recorded.CONTRACTS`). The real engine runs in scripts/test_engines.sh.
"""

from __future__ import annotations

import types

import torch

CHOICES, BACKENDS, HANDLERS, ABSORB = ["trtllm_mla"], {}, {"trtllm_mla": object()}, ["trtllm_mla"]
PARALLEL = types.SimpleNamespace(dcp_enabled=False, dcp_size=1)


class CuteDslMLABackend:
    def __init__(self, model_runner, skip_prefill=False, kv_indptr_buf=None, q_indptr_decode_buf=None):
        self.data_type, self.page_size = model_runner.kv_cache_dtype, model_runner.page_size
        self.num_decode_q_heads, self.num_draft_tokens = 3, 4

    def _compute_decode_bmm1_scale(self, layer):
        return layer.k_scale_float * layer.scaling


class TorchNativeAttnBackend:
    def __init__(self, model_runner):
        self.req_to_token_pool, self.token_to_kv_pool = model_runner.req_to_token_pool, model_runner.token_to_kv_pool
        self.swa_out_cache_loc = None


class AttentionBackendRegistry:
    register = staticmethod(HANDLERS.__setitem__)
    get_handler = staticmethod(HANDLERS.get)


NAMES = {
    "sglang.srt.arg_groups.choices": {
        "ATTENTION_BACKEND_CHOICES": CHOICES, "add_attention_backend_choices": CHOICES.extend,
    },
    "sglang.srt.layers.attention.attention_registry": {
        "register_attention_backend": lambda name: lambda make: BACKENDS.setdefault(name, make),
    },
    "sglang.srt.layers.attention.cutedsl_mla_backend": {"CuteDslMLABackend": CuteDslMLABackend},
    "sglang.srt.layers.attention.torch_native_backend": {"TorchNativeAttnBackend": TorchNativeAttnBackend},
    "sglang.srt.mem_cache.memory_pool": {"KVWriteLoc": lambda slots, other: slots},
    "sglang.srt.models.deepseek_common.attention_backend_handler": {
        "AttentionBackendRegistry": AttentionBackendRegistry,
    },
    "sglang.srt.models.deepseek_common.attention_forward_methods": {
        "AttnForwardMethod": types.SimpleNamespace(MLA="absorbed"),
    },
    "sglang.srt.models.deepseek_common.attention_forward_methods.forward_mla": {
        "is_mla_dcp_lse_base_on_e": lambda name: name in {"flashmla", "cutedsl_mla", "aiter"},
    },
    "sglang.srt.models.deepseek_common.utils": {"FORWARD_ABSORB_CORE_ATTENTION_BACKENDS": ABSORB},
    "sglang.srt.runtime_context": {"get_parallel": lambda: PARALLEL},
}  # fmt: skip


class Pool:
    """SGLang's cache of one layer: [slots, 1, 576], slot = page * page_size + place in it."""

    def __init__(self, cache: torch.Tensor):
        self.slots = cache.reshape(-1, 1, cache.shape[-1])

    def get_key_buffer(self, layer_id: int) -> torch.Tensor:
        return self.slots

    def set_kv_buffer(self, layer, slots, k, v) -> None:
        self.slots[slots] = k


def modules() -> dict[str, types.ModuleType]:
    """What to put into `sys.modules`."""
    found = {}
    for name, values in NAMES.items():
        found[name] = types.ModuleType(name)
        vars(found[name]).update(values)
    return found
