"""`mla_decode` as a torch operator, `blackwell_mla::decode`, for `torch.compile`, FakeTensor and graph capture.

`mla_decode` comes here by itself when it is traced; nothing else needs to. The operator writes into `out`, `lse` and
`workspace` and returns nothing; what it writes is declared, so a compiler may neither drop nor reorder it.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from wrappers import validate
from wrappers.decode import mla_decode

NAME = "blackwell_mla::decode"


@torch.library.custom_op(NAME, mutates_args=("out", "lse", "workspace"))
def decode(
    query: Tensor,
    kv_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    out: Tensor,
    lse: Optional[Tensor],  # noqa: UP045  the schema is read from these annotations, on Python 3.10 too
    workspace: Optional[Tensor],  # noqa: UP045
    softmax_scale: float,
    output_scale: float,
    is_causal: bool,
    lse_base: str,
    backend: str,
) -> None:
    """Arguments are `mla_decode`'s; `lse` None is without `return_lse`."""
    mla_decode(
        query, kv_cache, block_tables, seq_lens, softmax_scale=softmax_scale, output_scale=output_scale,
        is_causal=is_causal, out=out, return_lse=lse is not None, lse=lse, lse_base=lse_base, workspace=workspace,
        backend=backend,
    )  # fmt: skip


@decode.register_fake
def decode_fake(
    query, kv_cache, block_tables, seq_lens, out, lse, workspace, softmax_scale, output_scale, is_causal, lse_base,
    backend,
):  # fmt: skip
    """Checks everything but values."""
    validate.check_backend(backend)
    validate.check_decode_call(
        query, kv_cache, block_tables, seq_lens, softmax_scale=softmax_scale, output_scale=output_scale,
        is_causal=is_causal, out=out, return_lse=lse is not None, lse=lse, lse_base=lse_base, workspace=workspace,
        check_values=False,
    )  # fmt: skip


def traced_decode(
    query: Tensor,
    kv_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    *,
    softmax_scale: float,
    output_scale: float,
    is_causal: bool,
    out: Tensor | None,
    return_lse: bool,
    lse: Tensor | None,
    lse_base: str,
    workspace: Tensor | None,
    backend: str,
) -> Tensor | tuple[Tensor, Tensor]:
    """`mla_decode` through the operator: new outputs are allocated by the graph around it."""
    if lse is not None:
        validate.check_lse(lse, query, return_lse)
    validate.check_query(query)
    if out is None:
        out = query.new_empty(*query.shape[:-1], validate.LATENT_DIM, dtype=validate.OUTPUT_DTYPES[query.dtype])
    if return_lse and lse is None:
        lse = query.new_empty(query.shape[:-1], dtype=torch.float32)
    decode(
        query, kv_cache, block_tables, seq_lens, out, lse, workspace, softmax_scale, output_scale, is_causal, lse_base,
        backend,
    )  # fmt: skip
    return (out, lse) if return_lse else out
