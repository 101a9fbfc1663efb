"""Deliberately wrong kernels. Every one must fail validation: they show that the checks can fail.

A mutant replaces one function of the kernel's source while it is traced; nothing of it is in the kernels themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from mla import causal_mask, decode, operands, softmax, split_kv
from mla.compile import CompiledDecode, compile_kernel
from mla.config import MlaDecodeConfig
from mla.context import Context
from mla.decode import MlaDecode
from mla.pipelines import Pipeline
from mla.reduction import MergePartials
from mla.roles import correction, load


def _no_mtp_mask(mask: Any, row: Any, seq_len_k: Any) -> Any:
    return seq_len_k


def _top_left_mask(mask: Any, row: Any, seq_len_k: Any) -> Any:
    return causal_mask.minimum(mask.query_token(row) + 1, seq_len_k)


def _late_bound(mask: Any, row: Any, seq_len_k: Any) -> Any:
    return causal_mask.minimum(seq_len_k - (mask.seq_len_q - 1) + mask.query_token(row) + 1, seq_len_k)


def _no_mask(values: list[Any], visible: Any) -> list[Any]:
    return values


def _nothing(*arguments: Any) -> None:
    return None


def _short_take(first: Any, cost: Any, share_begin: Any, share_end: Any) -> split_kv.Share:
    return _TAKE(first, cost, share_begin, share_end - 1)


def _skip_probs_wait(pipeline: Pipeline, count: Any) -> None:
    if pipeline.edge.name != "probs":
        _WAIT_FULL(pipeline, count)


_WAIT_FULL = Pipeline.wait_full
_TAKE = split_kv.take

MUTANTS: dict[str, tuple[str, Callable[[], AbstractContextManager[Any]]]] = {
    "no-mtp-mask": (
        "every query token sees all keys, as in TokenSpeed-MLA's bf16 kernel before pull request 469",
        lambda: mock.patch.object(causal_mask.CausalMask, "k_bound", _no_mtp_mask),
    ),
    "top-left-mask": (
        "causal bound aligned with the first key instead of the last",
        lambda: mock.patch.object(causal_mask.CausalMask, "k_bound", _top_left_mask),
    ),
    "off-by-one-mask": (
        "every query token but the last sees one key too many",
        lambda: mock.patch.object(causal_mask.CausalMask, "k_bound", _late_bound),
    ),
    "no-tile-mask": (
        "tiles that straddle a bound are not masked",
        lambda: mock.patch.object(softmax, "masked", _no_mask),
    ),
    "natural-scale": (
        "softmax_scale is not converted to base 2",
        lambda: mock.patch.object(decode, "LOG2_E", 1.0),
    ),
    "no-rescale": (
        "the accumulated output is not rescaled when a row's maximum grows",
        lambda: mock.patch.object(correction, "rescale", _nothing),
    ),
    "no-tail-clear": (
        "unused slots of the last page reach the tensor core",
        lambda: mock.patch.object(load, "clear_rows", _nothing),
    ),
    "share-off-by-one": (
        "a CTA stops one key tile short of its share",
        lambda: mock.patch.object(split_kv, "take", _short_take),
    ),
    "no-merge": (
        "the parts of a split row tile are not merged",
        lambda: mock.patch.object(MergePartials, "merge_row", _nothing),
    ),
    "unscaled-probs": (
        "probabilities are rounded to e4m3 as they are, in [0, 1]; the same kernel for fp16 and bf16",
        lambda: mock.patch.object(MlaDecodeConfig, "probs_scale_log2", 0),
    ),
    "no-multicast": (
        "commits arrive in the leading CTA only",
        lambda: mock.patch.object(operands, "PAIR_MASK", 0b01),
    ),
    "no-query-copy": (
        "the part of Q that the tensor core reads from Tensor Memory is never copied there",
        lambda: mock.patch.object(operands, "copy_rows_to_tmem", _nothing),
    ),
    "same-rows": (
        "both CTAs of a pair work on the first 64 rows",
        lambda: mock.patch.object(Context, "first_cta_row", 0),
    ),
    "no-probs-wait": (
        "the tensor core does not wait for the probabilities",
        lambda: mock.patch.object(Pipeline, "wait_full", _skip_probs_wait),
    ),
}


# What only a pair of CTAs has; on the narrow path these are the kernel itself.
WIDE_MUTANTS = ("no-multicast", "no-query-copy", "same-rows")


@functools.cache
def compile_mutant(config: MlaDecodeConfig, name: str) -> CompiledDecode:
    """The named mutant of the kernel that `config` describes. Raises ValueError for an unknown name."""
    if name not in MUTANTS:
        raise ValueError(f"mutant={name!r}: must be one of {sorted(MUTANTS)}")
    with MUTANTS[name][1]():
        return compile_kernel(MlaDecode(config))
