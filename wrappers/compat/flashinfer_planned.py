"""`flashinfer.mla.BatchMLAPagedAttentionWrapper` with `MLAPlanMetadata` (FlashInfer 0.7.2.post1,
flashinfer/mla/_batch_mla/).

Our kernels lay out their work on the device in every call, so a plan only remembers its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mla.config import LATENT_DIM, ROPE_DIM
from wrappers import validate
from wrappers.call import OUTPUT_DTYPES
from wrappers.compat import (
    current_backend,
    int32_lengths,
    integer,
    naming,
    refuse_unless,
    usable_workspace,
)
from wrappers.compat.flashinfer import LSE_BASES, ragged_query, typed_output
from wrappers.decode import mla_decode

WRAPPER_BACKENDS = (
    "auto", "fa2", "fa3", "cutlass", "cutile", "trtllm-gen", "xqa", "cute-dsl", "cute-dsl-monolithic",
    "cute-dsl-modular",
)  # fmt: skip


@dataclass(frozen=True)
class MLAPlanMetadata:
    """Queries and keys of a batch: `cum_seq_lens_q` [B + 1], `block_tables` [B, W] and `seq_lens` [B]; or as CSR, the
    pages of request b being kv_indices[kv_indptr[b] : kv_indptr[b + 1]]. All int32."""

    qo_indptr: torch.Tensor | None = None
    kv_indptr: torch.Tensor | None = None
    kv_indices: torch.Tensor | None = None
    kv_len_arr: torch.Tensor | None = None
    cum_seq_lens_q: torch.Tensor | None = None
    block_tables: torch.Tensor | None = None
    seq_lens: torch.Tensor | None = None
    max_q_len: int | None = None

    @classmethod
    def csr(
        cls, qo_indptr: torch.Tensor, kv_indptr: torch.Tensor, kv_indices: torch.Tensor, kv_len_arr: torch.Tensor
    ) -> MLAPlanMetadata:
        return cls(qo_indptr, kv_indptr, kv_indices, kv_len_arr)

    @classmethod
    def dense(
        cls,
        cum_seq_lens_q: torch.Tensor,
        block_tables: torch.Tensor,
        seq_lens: torch.Tensor,
        max_q_len: int | None = None,
    ) -> MLAPlanMetadata:
        return cls(cum_seq_lens_q=cum_seq_lens_q, block_tables=block_tables, seq_lens=seq_lens, max_q_len=max_q_len)

    @classmethod
    def dual(
        cls,
        qo_indptr: torch.Tensor,
        kv_indptr: torch.Tensor,
        kv_indices: torch.Tensor,
        kv_len_arr: torch.Tensor,
        *,
        cum_seq_lens_q: torch.Tensor,
        block_tables: torch.Tensor,
        seq_lens: torch.Tensor,
        max_q_len: int | None = None,
    ) -> MLAPlanMetadata:
        return cls(
            qo_indptr, kv_indptr, kv_indices, kv_len_arr, cum_seq_lens_q, block_tables, seq_lens, max_q_len
        )  # fmt: skip

    def as_dense(self) -> MLAPlanMetadata:
        """The dense form of CSR metadata; reads the page counts on the host, as planning may."""
        dense = {"cum_seq_lens_q": self.cum_seq_lens_q, "block_tables": self.block_tables, "seq_lens": self.seq_lens}
        if all(value is not None for value in dense.values()):
            return self
        given = [name for name, value in dense.items() if value is not None]
        csr = {name: getattr(self, name) for name in ("qo_indptr", "kv_indptr", "kv_indices", "kv_len_arr")}
        missing = [name for name, value in csr.items() if value is None]
        if given or missing:
            names = ", ".join(missing if not given else [name for name in dense if name not in given])
            raise TypeError(f"{names} is None: metadata is {', '.join(dense)}, or {', '.join(csr)}")
        for name, value in csr.items():
            validate.check_tensor(name, value, (torch.int32,))
        return MLAPlanMetadata.dense(self.qo_indptr, table_of(self.kv_indptr, self.kv_indices), self.kv_len_arr)


def table_of(kv_indptr: torch.Tensor, kv_indices: torch.Tensor) -> torch.Tensor:
    """Block tables [B, W] of CSR page lists; entries behind a request's last page are -1."""
    starts, stops = kv_indptr[:-1].long(), kv_indptr[1:].long()
    width = max(1, int((stops - starts).max())) if len(starts) else 1
    at = starts[:, None] + torch.arange(width, device=kv_indptr.device)
    table = kv_indices[at.clamp(max=max(0, kv_indices.numel() - 1))] if kv_indices.numel() else at.int()
    return torch.where(at < stops[:, None], table, -1).to(torch.int32)


@dataclass(frozen=True)
class BatchPlan:
    """What `BatchMLAPagedAttentionWrapper.plan` leaves for `run`; the metadata is dense."""

    metadata: MLAPlanMetadata
    num_heads: int
    page_size: int
    causal: bool
    sm_scale: float
    dtype: torch.dtype
    lse_base: str | None
    output_dtype: torch.dtype | None
    takes_bmm_scales: bool


class BatchMLAPagedAttentionWrapper:
    """Packed or split inputs, dense or CSR metadata; query [total_q, H, 576], cache [pages, page_size, 576].

    Refused by name: sinks, skipped softmax blocks, scaled outputs, a cache of another dtype than the query with its
    own scales. A log-sum-exp is [total_q, H], base 2 unless `return_lse_base_on_e`; `lse_mode` is what the peer wants
    to be told ahead, and checks. The workspace is used where it is large enough. For a CUDA graph plan dense metadata
    (CSR is turned into a table when it is planned) and change the tensors' values, not the tensors.
    """

    def __init__(
        self,
        float_workspace_buffer: torch.Tensor,
        use_cuda_graph: bool = False,
        qo_indptr: torch.Tensor | None = None,
        kv_indptr: torch.Tensor | None = None,
        kv_indices: torch.Tensor | None = None,
        kv_len_arr: torch.Tensor | None = None,
        backend: str = "auto",
    ):
        validate.check_choice("backend", backend, WRAPPER_BACKENDS)
        validate.check_bool("use_cuda_graph", use_cuda_graph)
        self._workspace = float_workspace_buffer
        if use_cuda_graph:
            buffers = {"qo_indptr": qo_indptr, "kv_indptr": kv_indptr, "kv_indices": kv_indices}
            refuse_unless(None, **buffers, kv_len_arr=kv_len_arr)
        self._plan: BatchPlan | None = None

    def plan(
        self,
        qo_indptr: torch.Tensor | None = None,
        kv_indptr: torch.Tensor | None = None,
        kv_indices: torch.Tensor | None = None,
        kv_len_arr: torch.Tensor | None = None,
        num_heads: int | None = None,
        head_dim_ckv: int | None = None,
        head_dim_kpe: int | None = None,
        page_size: int | None = None,
        causal: bool | None = None,
        sm_scale: float | None = None,
        q_data_type: torch.dtype | None = None,
        kv_data_type: torch.dtype | None = None,
        use_profiler: bool = False,
        *,
        metadata: MLAPlanMetadata | None = None,
        cum_seq_lens_q: torch.Tensor | None = None,
        block_tables: torch.Tensor | None = None,
        seq_lens: torch.Tensor | None = None,
        max_q_len: int | None = None,
        query_layout: str | None = None,
        kv_cache_layout: str | None = None,
        lse_mode: str = "none",
        output_dtype: torch.dtype | None = None,
        output_scale: str = "none",
        scale_mode: str = "default",
        skip_softmax: bool = False,
        enable_pdl: bool | None = None,
        use_sinks: bool = False,
    ) -> None:
        """`metadata`, or its tensors one by one. The tensors are kept, not copied: `run` reads what they hold then."""
        refuse_unless(LATENT_DIM, head_dim_ckv=head_dim_ckv)
        refuse_unless(ROPE_DIM, head_dim_kpe=head_dim_kpe)
        refuse_unless(False, use_profiler=use_profiler, skip_softmax=skip_softmax, use_sinks=use_sinks)
        refuse_unless("none", output_scale=output_scale)
        validate.check_choice("scale_mode", scale_mode, ("default", "bmm-scalar"))
        validate.check_choice("lse_mode", lse_mode, ("none", *LSE_BASES))
        for name, layout in (("query_layout", query_layout), ("kv_cache_layout", kv_cache_layout)):
            validate.check_choice(name, layout or "packed", ("packed", "split"))
        validate.check_bool("causal", causal)
        if q_data_type not in OUTPUT_DTYPES or kv_data_type != q_data_type:
            raise ValueError(
                f"q_data_type={q_data_type}, kv_data_type={kv_data_type}: must be the same, one of {validate.DTYPES}"
            )
        if metadata is None:
            metadata = MLAPlanMetadata(
                qo_indptr, kv_indptr, kv_indices, kv_len_arr, cum_seq_lens_q, block_tables, seq_lens, max_q_len
            )
        metadata = metadata.as_dense()
        ragged = ragged_query(None, metadata.cum_seq_lens_q, metadata.max_q_len)
        self._plan = BatchPlan(
            MLAPlanMetadata.dense(
                metadata.cum_seq_lens_q, metadata.block_tables, metadata.seq_lens, ragged["max_seq_len_q"]
            ),
            integer("num_heads", num_heads, 1), integer("page_size", page_size, 1), causal, float(sm_scale),
            q_data_type, LSE_BASES.get(lse_mode), output_dtype, scale_mode == "bmm-scalar",
        )  # fmt: skip

    def run(
        self,
        q_nope: torch.Tensor | None = None,
        q_pe: torch.Tensor | None = None,
        ckv_cache: torch.Tensor | None = None,
        kpe_cache: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
        lse: torch.Tensor | None = None,
        return_lse: bool = False,
        profiler_buffer: torch.Tensor | None = None,
        kv_len: torch.Tensor | None = None,
        page_table: torch.Tensor | None = None,
        return_lse_base_on_e: bool = False,
        o_scale: float | None = None,
        *,
        query: torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None = None,
        kv_cache: torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None = None,
        ckv_scale: float | None = None,
        ckv_scale_arr: torch.Tensor | None = None,
        kpe_scale: float | None = None,
        sinks: torch.Tensor | None = None,
        skip_softmax_threshold_scale_factor: float | None = None,
        bmm1_scale: float | None = None,
        bmm2_scale: float | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Returns `out` [total_q, H, 512] or `(out, lse)`. Split halves that do not lie side by side in memory are
        joined for a query and refused for a cache, which would have to be copied. `bmm1_scale` replaces the planned
        `sm_scale`."""
        plan = self._plan
        if plan is None:
            raise RuntimeError("run() before plan()")
        refuse_unless(
            None, profiler_buffer=profiler_buffer, o_scale=o_scale, ckv_scale=ckv_scale, ckv_scale_arr=ckv_scale_arr,
            kpe_scale=kpe_scale, sinks=sinks, skip_softmax_threshold_scale_factor=skip_softmax_threshold_scale_factor,
        )  # fmt: skip
        if (bmm1_scale is None) != (bmm2_scale is None) or (bmm1_scale is not None) != plan.takes_bmm_scales:
            raise ValueError("bmm1_scale and bmm2_scale: must come together, exactly if scale_mode='bmm-scalar'")
        base = lse_base_of(plan, return_lse, lse, return_lse_base_on_e)
        query = packed("query", query, "q_nope", q_nope, "q_pe", q_pe, may_copy=True)
        kv_cache = packed("kv_cache", kv_cache, "ckv_cache", ckv_cache, "kpe_cache", kpe_cache, may_copy=False)
        check_planned(plan, query, kv_cache)
        metadata = plan.metadata
        if plan.output_dtype is not None:
            out = typed_output(out, plan.output_dtype, query)
        workspace = usable_workspace(as_bytes(self._workspace), query)
        names = {"block_tables": "page_table", "seq_lens": "kv_len", "workspace": "float_workspace_buffer"}
        with naming(cu_seqlens_q="cum_seq_lens_q", max_seq_len_q="max_q_len", **names):
            result = mla_decode(
                query, kv_cache, metadata.block_tables if page_table is None else page_table,
                int32_lengths(metadata.seq_lens if kv_len is None else kv_len),
                softmax_scale=plan.sm_scale if bmm1_scale is None else bmm1_scale,
                output_scale=1.0 if bmm2_scale is None else bmm2_scale, is_causal=plan.causal, out=out,
                return_lse=base is not None, lse=lse, lse_base=base or "2", workspace=workspace,
                cu_seqlens_q=metadata.cum_seq_lens_q, max_seq_len_q=metadata.max_q_len, backend=current_backend(),
            )  # fmt: skip
        return result if base is None or return_lse else result[0]


def lse_base_of(plan: BatchPlan, return_lse: bool, lse: torch.Tensor | None, on_e: bool) -> str | None:
    """Base of the log-sum-exp that a run asks for, None for none; it must be what was planned."""
    base = None
    if return_lse or lse is not None or on_e:
        base = "e" if on_e else "2"
    if base != plan.lse_base:
        text = {None: "none", "e": "base e", "2": "base 2"}
        raise ValueError(
            f"return_lse={return_lse}, return_lse_base_on_e={on_e}: a log-sum-exp in {text[base]}, but lse_mode "
            f"planned {text[plan.lse_base]}"
        )
    return base


def check_planned(plan: BatchPlan, query: torch.Tensor, kv_cache: torch.Tensor) -> None:
    for name, value, axis, planned in (("query", query, 1, "num_heads"), ("kv_cache", kv_cache, 1, "page_size")):
        if value.dim() != 3 or value.shape[axis] != getattr(plan, planned) or value.dtype != plan.dtype:
            raise ValueError(
                f"{name} is {value.dtype} {list(value.shape)}: planned were three dimensions, {planned}="
                f"{getattr(plan, planned)} and {plan.dtype}"
            )


def as_bytes(buffer: object) -> object:
    return buffer.view(torch.uint8) if isinstance(buffer, torch.Tensor) and buffer.dim() == 1 else buffer


def packed(
    name: str, whole: object, left_name: str, left: object, right_name: str, right: object, may_copy: bool
) -> torch.Tensor:
    """One tensor [..., 576] from `whole`, a tensor or a pair, or from the two halves by their old names."""
    if (whole is None) == (left is None and right is None):
        raise TypeError(f"{name}: give either {name} or {left_name} and {right_name}")
    if whole is None or isinstance(whole, tuple):
        left, right = (left, right) if whole is None else whole
        validate.check_tensor(left_name, left, validate.DTYPES)
        validate.check_tensor(right_name, right, (left.dtype,))
        whole = side_by_side(left, right)
        if whole is None:
            if not may_copy:
                raise ValueError(f"{left_name} and {right_name}: must be the two parts of one tensor [..., 576]")
            whole = torch.cat([left, right], dim=-1)
    validate.check_tensor(name, whole, validate.DTYPES)
    return whole


def side_by_side(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor | None:
    """The tensor whose last dimension is `left`'s and then `right`'s, where the memory is just that."""
    joins = left.shape[:-1] == right.shape[:-1] and left.stride() == right.stride() and left.stride(-1) == 1
    shares = left.untyped_storage().data_ptr() == right.untyped_storage().data_ptr()
    if joins and shares and right.storage_offset() == left.storage_offset() + left.shape[-1]:
        return left.as_strided((*left.shape[:-1], left.shape[-1] + right.shape[-1]), left.stride())
    return None
