"""Micro-kernels of the rows of docs/silicon-assumptions.md that are about TMA, shared memory and barriers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scripts.crosscheck_cases import Case
from scripts.first_light.ptx import DATA, Load, Tensor, case, chunks, dump, expect, init, kernel, swizzled, tma, wait

SHARED_BYTES = 64 * 1024
CLUSTER_SYNC = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;"
_BLOCKS = 3


def dynamic_shared_memory() -> Case:
    """The dynamic shared memory's address modulo 1024, in several CTAs each with a place of its own."""
    ptx = kernel(
        "mov.u32 %r3, %ctaid.x;\nmul.wide.u32 %rd2, %r3, 512;\nmul.wide.u32 %rd3, %r0, 4;\nadd.u64 %rd6, %rd6, %rd2;\n"
        "add.u64 %rd6, %rd6, %rd3;\nand.b32 %r4, %r1, 1023;\nst.global.b32 [%rd6], %r4;"
    )
    expected = np.zeros((_BLOCKS, 128), np.uint32)
    return case("address of dynamic shared memory", ptx, expected, blocks=_BLOCKS, shared_bytes=SHARED_BYTES)


def token_bits(seed: int, tokens: int) -> np.ndarray:
    """uint16 [tokens, 64]: rows of 128 random bytes."""
    return np.random.default_rng(seed).integers(0, 1 << 16, (tokens, 64), dtype=np.uint16)


def small_boxes(box_rows: int, tokens: int = 64) -> Case:
    """`tokens` rows of 128 bytes in boxes of `box_rows`, packed: what lies in shared memory afterwards."""
    tensor = Tensor(token_bits(20 + box_rows, tokens), "bf16", box_rows)
    loads = chunks(0, tensor, DATA)
    nbytes = tensor.bits.nbytes
    given = "\n".join([init((1,)), expect(0, nbytes), *(tma(load, "%r1") for load in loads)])
    body = f"@%p1 bra READY;\n{given}\nREADY:\nbar.sync 0;\n{wait(0, 'LOADED')}\n{dump(DATA, nbytes)}"
    expected = swizzled(tensor.bits).view(np.uint32).reshape(tokens, 32)
    name = f"boxes of {box_rows} rows of 128 bytes, {128 * box_rows} bytes apart"
    return case(name, kernel(body), expected, [tensor], shared_bytes=SHARED_BYTES)


# Barriers of the pair's kernels: the leader's, for both CTAs, and each CTA's own.
_LEADERS, _OWN = 0, 1
_BOX_ROWS = 16
_BOX_BYTES = 128 * _BOX_ROWS
_LEADING_BARRIER = f"add.u32 %r40, %r1, {8 * _LEADERS};\nmapa.shared::cluster.u32 %r40, %r40, 0;"


def _pair(name: str, seed: int, body: str, boxes: int) -> Case:
    """Each CTA of a pair loads `boxes` boxes of its own half of the tensor and writes what came."""
    bits = token_bits(seed, 2 * boxes * _BOX_ROWS)
    tensor = Tensor(bits, "bf16", _BOX_ROWS)
    nbytes = boxes * _BOX_BYTES
    text = f"""@%p1 bra READY;
{init((2, 1))}
READY:
{CLUSTER_SYNC}
setp.ne.u32 %p2, %r6, 0;
{_LEADING_BARRIER}
mul.lo.u32 %r41, %r6, {boxes * _BOX_ROWS};
mul.wide.u32 %rd2, %r6, {nbytes};
add.u64 %rd6, %rd6, %rd2;
@%p1 bra SENT;
{body}
SENT:
{wait(_OWN, "OWN")}
@%p2 bra FOLLOWS;
{wait(_LEADERS, "BOTH")}
FOLLOWS:
{CLUSTER_SYNC}
{dump(DATA, nbytes)}
{CLUSTER_SYNC}"""
    halves = bits.reshape(2, -1, 64)
    expected = np.stack([swizzled(half) for half in halves]).view(np.uint32).reshape(2, boxes * _BOX_ROWS, 32)
    return case(name, kernel(text), expected, [tensor], ctas=2, shared_bytes=SHARED_BYTES)


def _box(number: int, barrier: str, group: str = "") -> str:
    """Box `number` of the CTA's half to its place."""
    load = Load(0, 0, "%r42", DATA + number * _BOX_BYTES)
    return f"add.u32 %r42, %r41, {number * _BOX_ROWS};\n{tma(load, barrier, group)}"


def _announce(at_leader: bool, nbytes: int) -> str:
    if not at_leader:
        return expect(_OWN, nbytes)
    return f"mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%r40], {nbytes};"


def own_and_leading_barrier() -> Case:
    """A load without .cta_group::2 to the CTA's own barrier beside one with it to the leader's."""
    body = "\n".join([
        _announce(True, _BOX_BYTES), _announce(False, _BOX_BYTES),
        _box(0, "%r40", ".cta_group::2"), _box(1, f"%r1+{8 * _OWN}"),
    ])  # fmt: skip
    return _pair("TMA to the own and to the leader's barrier", 31, body, 2)


def bytes_announced(late: bool) -> Case:
    """A remote expect_tx before the bytes, or when they have (by all appearances: a load issued later has) arrived."""
    first = _box(0, "%r40", ".cta_group::2")
    own = "\n".join([_announce(False, _BOX_BYTES), _box(1, f"%r1+{8 * _OWN}"), wait(_OWN, "MINE")])
    announce = _announce(True, _BOX_BYTES)
    body = [first, own, announce] if late else [announce, first, own]
    name = f"remote expect_tx {'after' if late else 'before'} the bytes that it announces"
    return _pair(name, 33 + late, "\n".join(body), 2)


_PRODUCERS = 8


def dependent_launch() -> Case:
    """A kernel lets the next one begin with its first instruction and writes much later; the next one waits for it and
    reads what all its CTAs wrote, another CTA's words each."""
    words = _PRODUCERS * 128
    place = "mov.u32 %r3, %ctaid.x;\nshl.b32 %r4, %r3, 7;\nadd.u32 %r4, %r4, %r0;\n"
    producer = kernel(
        f"griddepcontrol.launch_dependents;\n{place}mov.u32 %r5, 0;\nLATER:\nnanosleep.u32 1000;\n"
        "add.u32 %r5, %r5, 1;\nsetp.lt.u32 %p3, %r5, 50;\n@%p3 bra LATER;\nmad.lo.u32 %r6, %r4, 3, 7;\n"
        "mul.wide.u32 %rd2, %r4, 4;\nadd.u64 %rd6, %rd6, %rd2;\nst.global.b32 [%rd6], %r6;"
    )
    consumer = kernel(
        f"griddepcontrol.wait;\n{place}sub.u32 %r5, {words - 1}, %r4;\nmul.wide.u32 %rd2, %r5, 4;\n"
        "mul.wide.u32 %rd3, %r4, 4;\nadd.u64 %rd4, %rd6, %rd2;\nld.global.b32 %r7, [%rd4];\n"
        f"add.u64 %rd5, %rd6, %rd3;\nst.global.b32 [%rd5+{4 * words}], %r7;"
    )
    entry = consumer[consumer.index(".visible .entry") :].replace(".entry k(", ".entry dependent(")
    written = (3 * np.arange(words) + 7).astype(np.uint32)
    expected = np.stack([written, written[::-1]])
    name = "launch_dependents first, griddepcontrol.wait in the next kernel"
    found = case(name, producer + entry, expected, blocks=_PRODUCERS, shared_bytes=0)
    return replace(found, dependent="dependent")
