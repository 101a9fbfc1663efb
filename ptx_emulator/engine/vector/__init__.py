"""Micro-operations on all 32 lanes at once, as LLVM vector code."""
