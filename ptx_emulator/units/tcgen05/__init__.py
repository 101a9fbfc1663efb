"""The tensor core's fifth generation: Tensor Memory, its layouts, the instructions, and their native forms."""
