"""The parameter lists that the adapters follow, as read in the peers' sources at the versions named here.

tests/wrappers/compat/test_recorded.py holds the adapters to them; `python -m wrappers.compat.changes` compares them
with an installed peer.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recorded:
    """One function of a peer: `path`, the file under the package, and `name`, dotted for a method.

    parameters: names and defaults as in a `def`, without annotations and without `self`. A default that the peer
    computes is written as its value.
    ours: the module and name of the adapter, or "" for what an engine calls in us or we call in it.
    extra: keyword-only parameters that ours has besides.
    """

    distribution: str
    version: str
    package: str
    path: str
    name: str
    parameters: str
    ours: str
    extra: tuple[str, ...] = ()


def in_package(distribution: str, version: str, package: str):
    def recorded(path: str, name: str, ours: str, parameters: str, extra: tuple[str, ...] = ()) -> Recorded:
        return Recorded(
            distribution, version, package, path, name, parameters, ours and f"wrappers.compat.{ours}", extra
        )

    return recorded


_tokenspeed = in_package("tokenspeed-mla", "2.0.4", "tokenspeed_mla")
_flashinfer = in_package("flashinfer-python", "0.7.2.post1", "flashinfer")
_vllm = in_package("vllm", "0.33.0", "vllm")
_sgl_kernel = in_package("sgl-kernel", "0.3.21", "sgl_kernel")
_sglang = in_package("sglang", "0.5.23", "sglang")

RECORDED = (
    _tokenspeed(
        "mla_decode.py", "tokenspeed_mla_decode", "tokenspeed.tokenspeed_mla_decode",
        "query, kv_cache, workspace_buffer, kv_lora_rank, qk_rope_head_dim, block_tables, seq_lens, max_seq_len, "
        "softmax_scale, output_scale=1.0, out=None, is_var_seq=True, causal_mask=True, window_left=-1, "
        "enable_pdl=False, return_lse=False, causal_seqs=None, cp_world=1, cp_rank=0, cp_interleave_size=1, *, "
        "min_split_kv=1, local_visible_lens=None",
    ),
    _tokenspeed("utils.py", "get_num_sm", "tokenspeed.get_num_sm", "device"),
    _tokenspeed(
        "mla_prefill.py", "warmup_compile_prefill", "tokenspeed.warmup_compile_prefill",
        "q_dtype=torch.float8_e4m3fn, d_qk=192, d_v=128, enable_pdl=False",
    ),
    _flashinfer(
        "mla/_core.py", "trtllm_batch_decode_with_kv_cache_mla", "flashinfer.trtllm_batch_decode_with_kv_cache_mla",
        "query, kv_cache, workspace_buffer, qk_nope_head_dim, kv_lora_rank, qk_rope_head_dim, block_tables, seq_lens, "
        "max_seq_len, sparse_mla_top_k=0, out=None, bmm1_scale=1.0, bmm2_scale=1.0, sinks=None, "
        "skip_softmax_threshold_scale_factor=None, enable_pdl=None, backend='auto', is_var_seq=True, "
        "uses_shared_paged_kv_idx=True, lse=None, return_lse=False, cute_dsl_impl='auto', kv_scale_format='auto', "
        "cum_seq_lens_q=None, max_q_len=None, multi_ctas_kv_counter_buffer=None, sparse_mla_top_k_lens=None, "
        "enable_dcp=False, cp_world=1, cp_rank=0, causal_seqlens_kv_global=None, use_fp16_softmax=None, "
        "return_lse_base=None",
    ),
    _flashinfer(
        "cute_dsl/attention/monolithic/mla_decode.py", "cute_dsl_mla_decode", "flashinfer.cute_dsl_mla_decode",
        "query, kv_cache, workspace_buffer, kv_lora_rank, qk_rope_head_dim, block_tables, seq_lens, max_seq_len, "
        "softmax_scale, output_scale=1.0, out=None, out_dtype=None, is_var_seq=True, enable_pdl=None, lse=None, "
        "return_lse=False, lse_scale=0.6931471805599453, cum_seq_lens_q=None, max_q_len=None, enable_dcp=False, "
        "cp_world=1, cp_rank=0, causal_seqlens_kv_global=None",
        # The dispatcher above the peer's function has the first, its modular kernel the second.
        extra=("cute_dsl_impl", "sinks"),
    ),
    _flashinfer(
        "mla/_core.py", "cake_mla_varq_dcp_decode", "flashinfer.cake_mla_varq_dcp_decode",
        "query, kv_cache, workspace_buffer, block_tables, seq_lens, max_seq_len, softmax_scale, *, cum_seq_lens_q, "
        "max_q_len, enable_dcp=False, cp_world=1, cp_rank=0, causal_seqlens_kv_global=None, out=None, lse=None, "
        "return_lse=True, backend='cake'",
    ),
    _flashinfer(
        "attention/prims_ts/mla_decode.py", "batch_mla_decode_with_paged_kv_cache",
        "flashinfer_prims.batch_mla_decode_with_paged_kv_cache",
        "query, kv_cache, block_tables, seq_lens, *, qo_indptr=None, max_seq_len_q=None, kv_lora_rank=512, "
        "qk_rope_head_dim=64, mask_type='causal', max_kv_len=None, bmm1_scale=1.0, bmm2_scale=1.0, out=None, "
        "out_dtype=torch.bfloat16, workspace_buffer=None, validate=True",
    ),
    _flashinfer(
        "attention/prims_ts/mla_decode.py", "BatchMLADecodePagedTSWrapper.plan",
        "flashinfer_prims.BatchMLADecodePagedTSWrapper.plan",
        "device, batch_size, num_heads, kv_lora_rank, qk_rope_head_dim, page_size, max_kv_len, *, max_seq_len_q, "
        "packed_query, q_data_type, kv_data_type, o_data_type, mask_type='causal', workspace_buffer=None, "
        "validate=True",
    ),
    _flashinfer(
        "attention/prims_ts/mla_decode.py", "BatchMLADecodePagedTSWrapper.run",
        "flashinfer_prims.BatchMLADecodePagedTSWrapper.run",
        "query, kv_cache, block_tables, seq_lens, *, qo_indptr=None, bmm1_scale=1.0, bmm2_scale=1.0, out=None, "
        "validate=True",
    ),
    _flashinfer(
        "mla/_batch_mla/_wrapper.py", "BatchMLAPagedAttentionWrapper.__init__",
        "flashinfer_planned.BatchMLAPagedAttentionWrapper.__init__",
        "float_workspace_buffer, use_cuda_graph=False, qo_indptr=None, kv_indptr=None, kv_indices=None, "
        "kv_len_arr=None, backend='auto'",
    ),
    _flashinfer(
        "mla/_batch_mla/_wrapper.py", "BatchMLAPagedAttentionWrapper.plan",
        "flashinfer_planned.BatchMLAPagedAttentionWrapper.plan",
        "qo_indptr=None, kv_indptr=None, kv_indices=None, kv_len_arr=None, num_heads=None, head_dim_ckv=None, "
        "head_dim_kpe=None, page_size=None, causal=None, sm_scale=None, q_data_type=None, kv_data_type=None, "
        "use_profiler=False, *, metadata=None, cum_seq_lens_q=None, block_tables=None, seq_lens=None, max_q_len=None, "
        "query_layout=None, kv_cache_layout=None, lse_mode='none', output_dtype=None, output_scale='none', "
        "scale_mode='default', skip_softmax=False, enable_pdl=None, use_sinks=False",
    ),
    _flashinfer(
        "mla/_batch_mla/_wrapper.py", "BatchMLAPagedAttentionWrapper.run",
        "flashinfer_planned.BatchMLAPagedAttentionWrapper.run",
        "q_nope=None, q_pe=None, ckv_cache=None, kpe_cache=None, out=None, lse=None, return_lse=False, "
        "profiler_buffer=None, kv_len=None, page_table=None, return_lse_base_on_e=False, o_scale=None, *, query=None, "
        "kv_cache=None, ckv_scale=None, ckv_scale_arr=None, kpe_scale=None, sinks=None, "
        "skip_softmax_threshold_scale_factor=None, bmm1_scale=None, bmm2_scale=None",
    ),
    _vllm(
        "third_party/flashmla/flash_mla_interface.py", "flash_mla_with_kvcache", "flashmla.flash_mla_with_kvcache",
        "q, k_cache, block_table, cache_seqlens, head_dim_v, tile_scheduler_metadata, num_splits=None, "
        "softmax_scale=None, causal=False, is_fp8_kvcache=False, indices=None, attn_sink=None, extra_k_cache=None, "
        "extra_indices_in_kvcache=None, topk_length=None, extra_topk_length=None, out=None, "
        "enable_batch_invariant=False",
    ),
    _vllm(
        "third_party/flashmla/flash_mla_interface.py", "get_mla_metadata", "flashmla.get_mla_metadata",
        "*args, **kwargs",
    ),
    _vllm(
        "v1/attention/ops/flashmla.py", "flash_mla_with_kvcache_fp8", "flashmla.flash_mla_with_kvcache_fp8",
        "q, k_cache, block_table, cache_seqlens, head_dim_v, tile_scheduler_metadata, num_splits, softmax_scale=None, "
        "causal=False, descale_q=None, descale_k=None",
    ),
    _vllm(
        "v1/attention/ops/flashmla.py", "get_mla_metadata_dense_fp8", "flashmla.get_mla_metadata_dense_fp8",
        "cache_seqlens, num_q_tokens_per_head_k, num_heads_k",
    ),
    _vllm(
        "_custom_ops.py", "sm100_cutlass_mla_decode", "cutlass.sm100_cutlass_mla_decode",
        "out, lse, q_nope, q_pe, kv_c_and_k_pe_cache, seq_lens, page_table, workspace, scale, num_kv_splits",
    ),
    _vllm(
        "_custom_ops.py", "sm100_cutlass_mla_get_workspace_size", "cutlass.sm100_cutlass_mla_get_workspace_size",
        "max_seq_len, num_batches, sm_count, num_kv_splits",
    ),
    _sgl_kernel(
        "attention.py", "cutlass_mla_decode", "cutlass.cutlass_mla_decode",
        "q_nope, q_pe, kv_c_and_k_pe_cache, seq_lens, page_table, workspace, sm_scale, num_kv_splits=1",
    ),
    _sgl_kernel(
        "attention.py", "cutlass_mla_get_workspace_size", "cutlass.cutlass_mla_get_workspace_size",
        "max_seq_len, num_batches, sm_count=0, num_kv_splits=1",
    ),
)  # fmt: skip

# What `wrappers.engines` overrides in the engines and calls there.
_MLA_LAYER = "model_executor/layers/attention/mla_attention.py"
CONTRACTS = (
    _vllm(
        _MLA_LAYER, "MLACommonImpl.__init__", "",
        "num_heads, head_size, scale, num_kv_heads, alibi_slopes, sliding_window, kv_cache_dtype, logits_soft_cap, "
        "attn_type, kv_sharing_target_layer_name, q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, "
        "qk_head_dim, v_head_dim, kv_b_proj, indexer=None, q_pad_num_heads=None",
    ),
    _vllm(_MLA_LAYER, "MLACommonImpl.forward_mqa", "", "q, kv_c_and_k_pe_cache, attn_metadata, layer"),
    _vllm(
        _MLA_LAYER, "MLACommonMetadataBuilder.__init__", "",
        "kv_cache_spec, layer_names, vllm_config, device, metadata_cls=None, supports_dcp_with_varlen=False",
    ),
    _vllm(
        _MLA_LAYER, "MLACommonMetadataBuilder._build_decode", "",
        "block_table_tensor, seq_lens_device, max_seq_len, query_start_loc_cpu, query_start_loc_device, "
        "num_decode_tokens, max_query_len, dcp_tot_seq_lens_device",
    ),
    _vllm(
        "v1/attention/backend.py", "AttentionBackend.supports_combination", "",
        "head_size, dtype, kv_cache_dtype, block_size, use_mla, has_sink, use_sparse, use_mm_prefix, "
        "device_capability",
    ),
    _vllm("v1/attention/backend.py", "MLAAttentionImpl.reserve_workspace", "", ""),
    _vllm(
        "v1/attention/backends/registry.py", "register_backend", "", "backend, class_path=None, is_mamba=False",
    ),
    _vllm(
        "v1/worker/workspace.py", "WorkspaceManager.get_simultaneous", "", "*shapes_and_dtypes",
    ),
    _sglang(
        "srt/layers/attention/cutedsl_mla_backend.py", "CuteDslMLABackend._run_decode_kernel", "",
        "query, kv_cache, block_tables, seq_lens, max_seq_len, layer, *, causal_seqs=None, cp_world=1, cp_rank=0, "
        "return_lse=False",
    ),
    _sglang(
        "srt/layers/attention/trtllm_mla_backend.py", "TRTLLMMLABackend._compute_decode_bmm1_scale", "", "layer",
    ),
    _sglang(
        "srt/layers/attention/torch_native_backend.py", "TorchNativeAttnBackend.forward_decode", "",
        "q, k, v, layer, forward_batch, save_kv_cache=True",
    ),
    _sglang("srt/layers/attention/attention_registry.py", "register_attention_backend", "", "name"),
    _sglang(
        "srt/models/deepseek_common/attention_backend_handler.py", "AttentionBackendRegistry.register", "",
        "backend_name, handler_func",
    ),
    _sglang(
        "srt/models/deepseek_common/attention_forward_methods/forward_mla.py", "is_mla_dcp_lse_base_on_e", "",
        "attention_backend",
    ),
)  # fmt: skip
