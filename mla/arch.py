"""Hardware limits of the target architectures.

Source: CUDA C++ Programming Guide, compute capability 10.x; PTX ISA 9.7.16 (Tensor Memory).
"""

from __future__ import annotations

ARCHS = ("sm_100a", "sm_103a", "sm_107a")
CUDA13_ARCHS = ("sm_107a",)  # of these, what only the compiler's CUDA 13 build knows; nothing here is tuned for it

WARP_SIZE = 32
SMEM_BYTES_PER_CTA = 232448  # 227 KiB of dynamic shared memory
SMEM_ALIGN = 1024  # a 128-byte-swizzle atom repeats every 8 rows of 128 bytes
SMEM_PORT_BYTES = 128  # read or written per cycle; QuickRunCUDA, measured on a B300 (performance notes)
TMEM_COLUMNS = 512  # 32-bit columns
REGISTERS_PER_SM = 65536
TMA_ALIGN_BYTES = 16  # the base address and every outer stride of a tensor map are multiples of this
MMA_K_BYTES = 32  # K extent of one tcgen05.mma, in bytes of operand element
