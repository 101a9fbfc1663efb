"""Serving engines decode with these kernels through their own plugin entry points (docs/engines.md).

The entry points lead here. Importing this package imports no engine.
"""

from __future__ import annotations

import os

from wrappers.validate import check_backend

BACKEND_VARIABLE = "BLACKWELL_MLA_BACKEND"
VLLM_NAME = "BLACKWELL_MLA"
SGLANG_NAME = "blackwell_mla"


def engine_backend() -> str:
    """The backend of `mla_decode` that the engines' calls take: $BLACKWELL_MLA_BACKEND, else "auto"."""
    backend = os.environ.get(BACKEND_VARIABLE, "auto")
    try:
        check_backend(backend)
    except ValueError as error:
        raise ValueError(f"${BACKEND_VARIABLE}: {error}") from error
    return backend


def register_vllm() -> None:
    """Entry point of `vllm.general_plugins`: the attention backend `BLACKWELL_MLA`. May be called again."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    if VLLM_NAME not in AttentionBackendEnum.__members__:
        register_backend(VLLM_NAME, "wrappers.engines.vllm.BlackwellMLABackend")


def register_sglang() -> None:
    """Entry point of `sglang.srt.plugins`: the attention backend `blackwell_mla`. May be called again."""
    from wrappers.engines import sglang

    sglang.register()
