"""What the engines' plugins are called, and which backend of `mla_decode` their calls take."""

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
