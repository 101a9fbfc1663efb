"""Warp roles. Each file says what the role consumes, produces, and which warps play it."""
