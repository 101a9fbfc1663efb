"""Registers, stack and local-memory traffic of every kernel in a cubin, read from the ELF file itself.

    python -m scripts.cubin_report FILE.cubin [FILE.cubin ...] [--require-clean]

No CUDA toolkit is needed. Registers and stack come from the `.nv.info` attributes that the assembler writes; local
loads and stores are counted in the machine code. A spilled register lives on the stack and is reached by STL/LDL, as
is an array that the compiler could not keep in registers: a kernel with neither stack nor STL/LDL has neither.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from ptx_emulator.timing.cubin import read_attributes, read_sections, read_symbols
from wrappers import command_line

# From Volta on, an instruction is 16 bytes and its opcode the low 12 bits.
INSTRUCTION_BYTES = 16
OPCODE_MASK = 0xFFF
OPCODE_STL = 0x387
OPCODE_LDL = 0x983
OPCODE_USETMAXREG = 0x9C8


@dataclass(frozen=True)
class KernelReport:
    """One kernel of a cubin: registers per thread at its launch, stack bytes per thread, STL/LDL and all instructions,
    reallocations of registers (setmaxnreg).
    """

    name: str
    registers: int
    stack_bytes: int
    local_stores: int
    local_loads: int
    instructions: int
    register_moves: int

    @property
    def is_clean(self) -> bool:
        """No register is spilled and no local memory is used."""
        return self.stack_bytes == 0 and self.local_stores == 0 and self.local_loads == 0


def report_cubin(cubin: bytes) -> list[KernelReport]:
    """Reports of all kernels in `cubin`, in the file's order; ValueError where it is no CUDA ELF file.

    A kernel's stack and code include those of the subroutines that the assembler put beside it.
    """
    sections = read_sections(cubin)
    by_name = {section.name: section for section in sections}
    symbols = read_symbols(by_name)
    if ".nv.info" not in by_name:
        raise ValueError("cubin has no .nv.info section: registers and stack are not recorded in it")
    registers, frames, stacks = read_attributes(by_name[".nv.info"].data)
    reports = []
    for index, (name, is_kernel) in enumerate(symbols):
        if not is_kernel:
            continue
        if index not in registers or index not in frames:
            raise ValueError(f"cubin records no register count or frame size for {name}")
        opcodes = read_opcodes(by_name[".text." + name].data)
        reports.append(
            KernelReport(
                name=name,
                registers=registers[index],
                stack_bytes=max(frames[index], stacks.get(index, 0)),
                local_stores=opcodes.count(OPCODE_STL),
                local_loads=opcodes.count(OPCODE_LDL),
                instructions=len(opcodes),
                register_moves=opcodes.count(OPCODE_USETMAXREG),
            )
        )
    return reports


def read_opcodes(code: bytes) -> list[int]:
    return [struct.unpack_from("<H", code, at)[0] & OPCODE_MASK for at in range(0, len(code), INSTRUCTION_BYTES)]


def report_file(file: Path) -> list[KernelReport]:
    """`report_cubin` of a file; ValueError names it, whatever is wrong in it."""
    try:
        return report_cubin(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    except (OSError, LookupError, struct.error) as error:
        raise ValueError(f"{file}: is cut short or damaged ({type(error).__name__}: {error})") from error


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.Parser(prog="python -m scripts.cubin_report", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=command_line.input_file, metavar="FILE.cubin")
    parser.add_argument(
        "--require-clean", action="store_true", help="exit status 1 if a kernel spills or uses local memory"
    )
    options = parser.parse_args(arguments)
    try:
        reports = {file: report_file(file) for file in options.files}
    except ValueError as error:
        parser.error(str(error))
    clean = True
    for kernels in reports.values():
        for kernel in kernels:
            clean &= kernel.is_clean
            print(
                f"{kernel.name}: {kernel.registers} registers, {kernel.stack_bytes} stack bytes, "
                f"{kernel.local_stores} STL, {kernel.local_loads} LDL, {kernel.instructions} instructions"
            )
    return 0 if clean or not options.require_clean else 1


if __name__ == "__main__":
    command_line.run(main)
