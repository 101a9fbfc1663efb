"""Registers, stack and local-memory traffic of every kernel in a cubin, read from the ELF file itself.

    python -m scripts.cubin_report FILE.cubin [FILE.cubin ...] [--require-clean]

No CUDA toolkit is needed. Registers and stack come from the `.nv.info` attributes that the assembler writes; local
loads and stores are counted in the machine code. A spilled register lives on the stack and is reached by STL/LDL, as
is an array that the compiler could not keep in registers: a kernel with neither stack nor STL/LDL has neither.
"""

from __future__ import annotations

import argparse
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

ELF_MAGIC = b"\x7fELF\x02\x01"  # 64-bit, little-endian
EM_CUDA = 190
SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
STT_FUNC = 2
STO_ENTRY = 0x10  # st_other of a kernel; subroutines of its own that a kernel calls lack it

# Attribute records of .nv.info: one byte of format, one of attribute, then a 2-byte value or a 2-byte size and that
# many bytes. The sized values of these three are (symbol index, number), both u32. The layout was checked against what
# `ptxas -v` prints (registers, stack frame) for kernels with and without spills; STL/LDL counts against nvdisasm.
SIZED_VALUE = 0x04
EIATTR_FRAME_SIZE = 0x11
EIATTR_MIN_STACK_SIZE = 0x12
EIATTR_REGCOUNT = 0x2F

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


@dataclass(frozen=True)
class Section:
    name: str
    kind: int
    data: bytes


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


def read_sections(cubin: bytes) -> list[Section]:
    if cubin[: len(ELF_MAGIC)] != ELF_MAGIC:
        raise ValueError(f"not a 64-bit ELF file: starts with {cubin[:6].hex()}, a cubin with {ELF_MAGIC.hex()}")
    (machine,) = struct.unpack_from("<H", cubin, 18)
    if machine != EM_CUDA:
        raise ValueError(f"ELF machine {machine}: a cubin has {EM_CUDA}")
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    count, names_index = struct.unpack_from("<HH", cubin, 0x3C)
    headers = [SECTION_HEADER.unpack_from(cubin, table + i * SECTION_HEADER.size) for i in range(count)]
    names_at = headers[names_index][4]
    return [
        Section(read_name(cubin, names_at + header[0]), header[1], cubin[header[4] : header[4] + header[5]])
        for header in headers
    ]


def read_symbols(sections: dict[str, Section]) -> list[tuple[str, bool]]:
    """`(name, is a kernel)` of every symbol, by index."""
    table, names = sections[".symtab"].data, sections[".strtab"].data
    return [
        (read_name(names, name_at), (info & 0xF) == STT_FUNC and bool(other & STO_ENTRY))
        for name_at, info, other, *_ in SYMBOL.iter_unpack(table)
    ]


def read_attributes(info: bytes) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
    """Registers, frame bytes and minimum stack bytes per symbol index."""
    found: dict[int, dict[int, int]] = {EIATTR_REGCOUNT: {}, EIATTR_FRAME_SIZE: {}, EIATTR_MIN_STACK_SIZE: {}}
    at = 0
    while at < len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, at)
        at += 4
        if form != SIZED_VALUE:
            continue
        if attribute in found:
            symbol, number = struct.unpack_from("<II", info, at)
            found[attribute][symbol] = number
        at += value
    return found[EIATTR_REGCOUNT], found[EIATTR_FRAME_SIZE], found[EIATTR_MIN_STACK_SIZE]


def read_opcodes(code: bytes) -> list[int]:
    return [struct.unpack_from("<H", code, at)[0] & OPCODE_MASK for at in range(0, len(code), INSTRUCTION_BYTES)]


def read_name(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.cubin_report", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.cubin")
    parser.add_argument(
        "--require-clean", action="store_true", help="exit status 1 if a kernel spills or uses local memory"
    )
    options = parser.parse_args(arguments)
    clean = True
    for file in options.files:
        for kernel in report_cubin(file.read_bytes()):
            clean &= kernel.is_clean
            print(
                f"{kernel.name}: {kernel.registers} registers, {kernel.stack_bytes} stack bytes, "
                f"{kernel.local_stores} STL, {kernel.local_loads} LDL, {kernel.instructions} instructions"
            )
    return 0 if clean or not options.require_clean else 1


if __name__ == "__main__":
    sys.exit(main())
