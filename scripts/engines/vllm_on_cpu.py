"""One run of the unmodified vLLM engine on a CPU: prompts in, greedy tokens and their log-probabilities out, as JSON.

python -m scripts.engines.vllm_on_cpu --model FOLDER --attention blackwell --kv-cache-dtype auto --out FILE

vLLM's CPU platform takes the flag for the attention backend, and then one of its own, so this puts our class under
those names. Two things are CPU-only: the cache is written in torch (vLLM's writer is a GPU kernel), and every call is
checked against the reference.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from scripts.engines.checked_calls import CheckedCalls
from scripts.engines.model import prompts

ATTENTIONS = ("cpu_mla", "blackwell")
CHECKED = CheckedCalls()


def override_cpu_backends(mutant: bool) -> None:
    import torch
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    from wrappers.engines import vllm as engine

    assert "BLACKWELL_MLA" in AttentionBackendEnum.__members__, "the entry point of vllm.general_plugins did not run"

    class CpuImpl(engine.BlackwellMLAImpl):
        def do_kv_cache_update(
            self, kv_c_normed: Any, k_pe: Any, kv_cache: Any, slot_mapping: Any, kv_cache_dtype: str, k_scale: Any
        ) -> None:
            """By way of the model's dtype, torch writes no selection of e4m3 elements."""
            if not kv_cache.numel():
                return
            is_fp8 = kv_cache_dtype.startswith("fp8")
            cache = kv_cache.view(torch.float8_e4m3fn) if is_fp8 else kv_cache
            scale = k_scale if is_fp8 else 1.0
            slots = slot_mapping.flatten().long()
            rows = torch.cat([kv_c_normed, k_pe.squeeze(1)], dim=-1)[slots >= 0].float() / scale
            as_bytes = cache.view(-1, cache.shape[-1]).view(torch.uint8)
            as_bytes[slots[slots >= 0]] = rows.to(cache.dtype).view(torch.uint8)

        def forward_mqa(self, q: Any, cache: Any, metadata: Any, layer: Any) -> tuple[Any, Any]:
            if mutant:
                metadata.decode.seq_lens.sub_(1)
            result = super().forward_mqa(q, cache, metadata, layer)
            if mutant:
                metadata.decode.seq_lens.add_(1)
            return CHECKED.vllm(self, q, cache, metadata, layer, result)

    class CpuBackend(engine.BlackwellMLABackend):
        get_impl_cls = staticmethod(lambda: CpuImpl)

    # vLLM finds classes by name.
    globals()["CpuBackend"] = CpuBackend
    for name in ("CPU_MLA", "AMX_MLA"):
        register_backend(AttentionBackendEnum[name], f"{__name__}.CpuBackend")


def run(options: argparse.Namespace) -> dict[str, Any]:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM, SamplingParams, __version__
    from vllm.plugins import load_general_plugins

    if options.attention == "blackwell":
        load_general_plugins()
        override_cpu_backends(options.mutant)
    speculation = None
    if options.speculate:
        speculation = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    llm = LLM(
        str(options.model), skip_tokenizer_init=True, enforce_eager=True, dtype="bfloat16", max_model_len=256,
        max_num_seqs=4, max_num_batched_tokens=256, enable_prefix_caching=False, block_size=16,
        kv_cache_dtype=options.kv_cache_dtype,
        attention_config={"backend": "BLACKWELL_MLA" if options.attention == "blackwell" else "CPU_MLA"},
        speculative_config=speculation,
        # vLLM's CPU build computes wrong logits with its own operators for norms and activations.
        compilation_config={"custom_ops": ["none"]},
    )  # fmt: skip
    CHECKED.count_launches()
    sampling = SamplingParams(temperature=0.0, max_tokens=options.tokens, logprobs=1, ignore_eos=True, detokenize=False)
    outputs = llm.generate([{"prompt_token_ids": each} for each in prompts()], sampling, use_tqdm=False)
    completions = [each.outputs[0] for each in outputs]
    return {
        "engine": f"vllm-cpu {__version__}", "tokens": [list(each.token_ids) for each in completions],
        "logprobs": [
            [step[token].logprob for token, step in zip(each.token_ids, each.logprobs, strict=True)]
            for each in completions
        ],
        **CHECKED.summary(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.engines.vllm_on_cpu")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--attention", choices=ATTENTIONS, required=True)
    parser.add_argument("--kv-cache-dtype", choices=("auto", "fp8"), default="auto")
    parser.add_argument("--speculate", action="store_true", help="n-gram speculation: ragged verification")
    parser.add_argument("--mutant", action="store_true", help="decode reads one key too few: must fail")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.write_text(json.dumps(run(options)))


if __name__ == "__main__":
    main()
