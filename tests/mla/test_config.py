"""The compile key refuses what cannot be compiled, by name."""

from __future__ import annotations

import pytest

from mla.config import MlaDecodeConfig

GOOD = dict(dtype="bf16", num_heads=16, seq_len_q=4, is_causal=True, page_size=64)


@pytest.mark.parametrize(
    "field, value",
    [
        ("dtype", "fp32"),
        ("num_heads", 0),
        ("num_heads", 129),
        ("seq_len_q", 0),
        ("page_size", 48),
        ("kv_lora_rank", 256),
        ("qk_rope_head_dim", 32),
        ("lse_base", "10"),
        ("arch", "sm_90a"),
    ],
)
def test_bad_field_is_named_with_its_value(field, value):
    with pytest.raises(ValueError, match=f"{field}={value!r}: must be"):
        MlaDecodeConfig(**{**GOOD, field: value})


def test_equal_configs_are_one_cache_key():
    assert hash(MlaDecodeConfig(**GOOD)) == hash(MlaDecodeConfig(**GOOD))
    assert MlaDecodeConfig(**GOOD) != MlaDecodeConfig(**{**GOOD, "is_causal": False})


@pytest.mark.parametrize(
    "num_heads, packed, rows", [(16, True, 64), (16, False, 16), (40, False, 8), (3, False, 1), (128, False, 64)]
)
def test_query_boxes_never_straddle_tokens(num_heads, packed, rows):
    config = MlaDecodeConfig(**{**GOOD, "num_heads": num_heads}, query_packed=packed)
    assert config.query_box_rows(64) == rows
