"""Serving engines decode with these kernels through their own plugin entry points (docs/engines.md).

The entry points lead here. Importing this package imports no engine.
"""

from __future__ import annotations

from wrappers.engines.settings import VLLM_NAME


def register_vllm() -> None:
    """Entry point of `vllm.general_plugins`: the attention backend `BLACKWELL_MLA`. May be called again."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    if VLLM_NAME not in AttentionBackendEnum.__members__:
        register_backend(VLLM_NAME, "wrappers.engines.vllm.BlackwellMLABackend")


def register_sglang() -> None:
    """Entry point of `sglang.srt.plugins`: the attention backend `blackwell_mla`. May be called again."""
    from wrappers.engines import sglang

    sglang.register()
