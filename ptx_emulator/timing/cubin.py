"""What a cubin, a CUDA ELF file, records of its kernels: sections, symbols, registers and stack. No CUDA toolkit is
needed."""

from __future__ import annotations

import struct
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Section:
    name: str
    kind: int
    data: bytes


def register_counts(cubin: bytes) -> dict[str, int]:
    """Registers of a thread at the launch of each kernel, by the kernel's name; ValueError where it is no cubin."""
    by_name = {section.name: section for section in read_sections(cubin)}
    registers, _, _ = read_attributes(by_name[".nv.info"].data) if ".nv.info" in by_name else ({}, {}, {})
    symbols = read_symbols(by_name)
    return {name: registers[i] for i, (name, is_kernel) in enumerate(symbols) if is_kernel and i in registers}


def code_sizes(cubin: bytes) -> dict[str, int]:
    """Bytes of machine code of each kernel, by the kernel's name; ValueError where it is no cubin."""
    prefix = ".text."
    return {s.name[len(prefix) :]: len(s.data) for s in read_sections(cubin) if s.name.startswith(prefix)}


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


def read_name(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()
