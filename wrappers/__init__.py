"""Torch API of the MLA decode kernels: `wrappers.decode.mla_decode` and its reference."""
