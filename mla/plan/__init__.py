"""Where everything lives and what waits for what, decided before a kernel is traced: `paths.plan_of` a config.

`tile`: what a key tile and a row tile are, and how operands are cut. `tmem`: columns of Tensor Memory. `smem`: bytes of
shared memory. `barriers`: the edges between warps. `memory`: all of it, checked against mla/arch.py. `paths`: the tiles
of the two operand paths.
"""
