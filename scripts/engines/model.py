"""A two-layer DeepSeek-V2 model with random weights, in a folder that the engines and transformers load."""

from __future__ import annotations

import json
from pathlib import Path

import torch

LAYERS, HIDDEN, HEADS, VOCABULARY, INTERMEDIATE = 2, 256, 4, 512, 512
LATENT, NOPE, ROPE, VALUE = 512, 128, 64, 128
MAX_TOKENS = 512
# Weights have a standard deviation of GAIN / sqrt(inputs): with 1 every continuation is soon the same token again.
GAIN = 2.5

CONFIG = {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "moe_intermediate_size": 128, "vocab_size": VOCABULARY,
    "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "q_lora_rank": None, "kv_lora_rank": LATENT,
    "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE, "v_head_dim": VALUE, "head_dim": ROPE,
    # All layers dense: the experts would only add time.
    "first_k_dense_replace": LAYERS, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "topk_method": "greedy", "norm_topk_prob": False, "routed_scaling_factor": 1.0,
    "moe_layer_freq": 1, "aux_loss_alpha": 0.0, "seq_aux": True, "scoring_func": "softmax",
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": MAX_TOKENS, "attention_bias": False,
    "attention_dropout": 0.0, "rope_theta": 10000.0,
    # SGLang reads the factor without asking whether there is one; 1 changes nothing.
    "rope_scaling": {
        "type": "yarn", "rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": MAX_TOKENS,
        "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0, "rope_theta": 10000.0,
    },
    "bos_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
}  # fmt: skip


def shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight; one dimension is a norm."""
    found = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    found["model.norm.weight"] = (HIDDEN,)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        found |= {
            f"{at}input_layernorm.weight": (HIDDEN,), f"{at}post_attention_layernorm.weight": (HIDDEN,),
            f"{at}self_attn.q_proj.weight": (HEADS * (NOPE + ROPE), HIDDEN),
            f"{at}self_attn.kv_a_proj_with_mqa.weight": (LATENT + ROPE, HIDDEN),
            f"{at}self_attn.kv_a_layernorm.weight": (LATENT,),
            f"{at}self_attn.kv_b_proj.weight": (HEADS * (NOPE + VALUE), LATENT),
            f"{at}self_attn.o_proj.weight": (HIDDEN, HEADS * VALUE),
            f"{at}mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN), f"{at}mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{at}mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }  # fmt: skip
    return found


def write_model(folder: Path, seed: int = 0) -> None:
    # On use: only the engines' environment has it.
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes().items():
        if len(shape) == 1:
            weights[name] = torch.ones(shape, dtype=torch.bfloat16)
            continue
        gain = 1.0 if name == "model.embed_tokens.weight" else GAIN / shape[1] ** 0.5
        weights[name] = (torch.randn(shape, generator=generator) * gain).bfloat16()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))


def prompts(count: int = 3, seed: int = 1) -> list[list[int]]:
    """Token ids of different lengths; each repeats a part of itself, so that n-gram speculation has guesses."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index in range(count):
        part = torch.randint(2, VOCABULARY, (9 + 7 * index,), generator=generator).tolist()
        found.append(part * 2)
    return found
