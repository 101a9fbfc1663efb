"""`DecodeCall` beside the signature of `mla_decode` and the schema of the operator: three lists, one set of arguments."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields

import pytest
import torch

from wrappers import op
from wrappers.call import TENSORS, WRITTEN, DecodeCall
from wrappers.decode import mla_decode
from wrappers.testing import make_problem

SCHEMA = torch.ops.blackwell_mla.decode.default._schema
# The schema in words, which is what graphs on disk hold; a change of it is one of the public operator.
RECORDED = (
    "blackwell_mla::decode(Tensor query, Tensor kv_cache, Tensor block_tables, Tensor seq_lens, Tensor(a4!) out, "
    "Tensor(a5!)? lse, Tensor(a6!)? workspace, float softmax_scale, float output_scale, bool is_causal, str lse_base, "
    "str backend, Tensor? softmax_scale_tensor=None, Tensor? output_scale_tensor=None, Tensor? cu_seqlens_q=None, "
    "SymInt? max_seq_len_q=None, Tensor? tree_mask=None, SymInt dcp_world=1, SymInt dcp_rank=0, "
    "SymInt dcp_interleave=1, SymInt? window_left=None, Tensor? local_visible_lens=None, bool? check_values=None, "
    "bool isolate_drafts=False) -> ()"
)


def test_fields_are_the_parameters_of_mla_decode():
    """In order, which is how `mla_decode` fills them, and with the same defaults."""
    parameters = inspect.signature(mla_decode).parameters.values()
    expected = [(p.name, MISSING if p.default is p.empty else p.default) for p in parameters]
    assert [(field.name, field.default) for field in fields(DecodeCall)] == expected
    given = {p.name for p in parameters if "Tensor" in p.annotation}
    assert set(TENSORS) == given and set(WRITTEN) < given


def test_every_argument_reaches_its_field(monkeypatch):
    values = {field.name: object() for field in fields(DecodeCall)}
    monkeypatch.setattr("wrappers.backends.run", vars)
    assert mla_decode(**values) == values


def test_the_operators_schema():
    assert str(SCHEMA) == RECORDED
    defaults = {field.name: field.default for field in fields(DecodeCall)}
    for argument in SCHEMA.arguments:
        if argument.has_default_value() and argument.name not in op.SCALE_TENSORS.values():
            assert argument.default_value == defaults[argument.name], argument.name


@pytest.mark.parametrize("scales", [(0.5, 2.0), (torch.tensor([0.5]), 2.0), (torch.tensor([0.5]), torch.ones(1))])
def test_a_call_comes_back_from_the_operators_arguments(scales):
    problem = make_problem(2, 3, 4, [5, 40], page_size=16, query_lens=[4, 2], tree=True)
    options = {**problem.options, "softmax_scale": scales[0], "output_scale": scales[1], "dcp_rank": 3}
    call = DecodeCall(*problem.tensors, **options, return_lse=True, lse_base="2", backend="torch", check_values=False)
    out, lse = problem.query.new_empty(problem.out_shape), torch.empty(problem.out_shape[:-1])
    operands = op.operands_of(call, out, lse)
    assert set(operands) == {argument.name for argument in SCHEMA.arguments}
    back = op.call_of(*(operands[argument.name] for argument in SCHEMA.arguments))
    assert vars(back) == {**vars(call), "out": out, "lse": lse}
    short = op.call_of(*(operands[argument.name] for argument in SCHEMA.arguments[:12]))
    assert short.tree_mask is None and short.dcp_rank == 0, "the dispatcher leaves defaults out"
