"""Operand paths: how keys and values get to the tensor core, and in which order its instructions issue."""
