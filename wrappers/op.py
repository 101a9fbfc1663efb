"""`mla_decode` as a torch operator, `blackwell_mla::decode`, for `torch.compile`, FakeTensor and graph capture.

`mla_decode` comes here by itself when it is traced; nothing else needs to. The operator writes into `out`, `lse` and
`workspace` and returns nothing; what it writes is declared, so a compiler may neither drop nor reorder it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mla.config import LATENT_DIM
from wrappers import backends, validate
from wrappers.call import WRITTEN, DecodeCall

NAME = "blackwell_mla::decode"
# `mla_decode`'s arguments; `lse` None is without `return_lse`. A scale's tensor, where given, replaces it.
SCHEMA = (
    "(Tensor query, Tensor kv_cache, Tensor block_tables, Tensor seq_lens, Tensor(a4!) out, Tensor(a5!)? lse, "
    "Tensor(a6!)? workspace, float softmax_scale, float output_scale, bool is_causal, str lse_base, str backend, "
    "Tensor? softmax_scale_tensor=None, Tensor? output_scale_tensor=None, Tensor? cu_seqlens_q=None, "
    "SymInt? max_seq_len_q=None, Tensor? tree_mask=None, SymInt dcp_world=1, SymInt dcp_rank=0, "
    "SymInt dcp_interleave=1, SymInt? window_left=None, Tensor? local_visible_lens=None, bool? check_values=None, "
    "bool isolate_drafts=False) -> ()"
)
SCALE_TENSORS = {"softmax_scale": "softmax_scale_tensor", "output_scale": "output_scale_tensor"}


@torch.library.custom_op(NAME, mutates_args=WRITTEN, schema=SCHEMA)
def decode(*operands: Any) -> None:
    backends.run(call_of(*operands))


OPERANDS = tuple(argument.name for argument in torch.ops.blackwell_mla.decode.default._schema.arguments)
# Operands that are the fields of a DecodeCall as they are.
PLAIN_OPERANDS = tuple(name for name in OPERANDS if name not in (*SCALE_TENSORS, *SCALE_TENSORS.values(), *WRITTEN[:2]))


@decode.register_fake
def decode_fake(*operands: Any) -> None:
    """Checks everything but values."""
    call = call_of(*operands)
    validate.check_backend(call.backend)
    validate.checked(call.changed(check_values=False))


def call_of(*operands: Any) -> DecodeCall:
    """The call that the operator's arguments stand for; of the last ones the dispatcher leaves out what are defaults."""
    named = dict(zip(OPERANDS, operands))
    for scale, tensor in SCALE_TENSORS.items():
        given = named.pop(tensor, None)
        named[scale] = named[scale] if given is None else given
    return DecodeCall(**named, return_lse=named["lse"] is not None)


def operands_of(call: DecodeCall, out: Tensor, lse: Tensor | None) -> dict[str, Any]:
    """The operator's arguments for `call`, writing its results into `out` and, for `return_lse`, `lse`."""
    operands = {"out": out, "lse": lse, **{name: getattr(call, name) for name in PLAIN_OPERANDS}}
    for scale, tensor in SCALE_TENSORS.items():
        given = getattr(call, scale)
        operands[scale], operands[tensor] = (1.0, given) if isinstance(given, Tensor) else (given, None)
    return operands


def traced_decode(call: DecodeCall) -> Tensor | tuple[Tensor, Tensor]:
    """`call` through the operator: new outputs are allocated by the graph around it."""
    query, out, lse = call.query, call.out, call.lse
    validate.check_query(query, is_ragged=call.is_ragged)
    if call.check_values is not None:
        validate.check_bool("check_values", call.check_values)
    if out is not None:
        validate.check_out(out, query)
    if lse is not None:
        validate.check_lse(lse, query, call.return_lse)
    if out is None:
        out = query.new_empty(*query.shape[:-1], LATENT_DIM, dtype=call.output_dtype)
    if call.return_lse and lse is None:
        lse = query.new_empty(query.shape[:-1], dtype=torch.float32)
    decode(**operands_of(call, out, lse))
    return (out, lse) if call.return_lse else out
