"""Addresses that are in no memory, while counters and all checks look at them before they fail.

What they do with such an address must not harm the simulator: with sanitizers
(``python -m simulator.sanitize``) this shows where it does not crash by itself.
"""

from __future__ import annotations

import ctypes

import pytest

import simulator

KERNEL = """.visible .entry k(.param .u64 out) {{
  .shared .align 16 .b8 tile[2048];
  .reg .b16 h; .reg .b32 a, b, t, s; .reg .b64 d, i, x; .reg .f32 f; .reg .pred p;
  mov.u32 t, %tid.x; mov.b32 a, t; cvt.u16.u32 h, t; mov.b32 f, t; mov.b64 x, {{t, t}};
  ld.param.u64 d, [out]; mov.u32 s, tile;
  {}
  ret;
}}
"""
# i: an address per lane, of which some are wild.
ADDRESSES = {
    "just below null": "mul.wide.u32 i, t, {bytes}; sub.u64 i, i, {bytes};",
    "far below null": "mul.wide.u32 i, t, {bytes}; sub.u64 i, i, 256;",
    "all at the top": "mov.b64 i, -{bytes};",
    "backwards through null": "mul.wide.u32 i, t, {bytes}; sub.u64 i, 64, i;",
    "steps that wrap": "mul.wide.u32 i, t, {bytes}; mul.lo.u64 i, i, 0x1000000000000001;",
    "every other below null": (
        "mul.wide.u32 i, t, {bytes}; add.u64 i, i, d; ld.global.u32 b, [d]; and.b32 b, t, 1;"
        "setp.eq.u32 p, b, 1; selp.b64 i, -{bytes}, i, p;"
    ),
}
INSTRUCTIONS = {
    "ld.global.u8 h": 1,
    "ld.global.u32 a": 4,
    "ld.u32 a": 4,
    "ld.global.v4.u32 {{a, b, t, s}}": 16,
    "st.global.u32 [i], a": 4,
    "st.u64 [i], x": 8,
    "atom.global.add.u32 a, [i], 1": 4,
    "red.global.add.f32 [i], f": 4,
    "cp.async.ca.shared.global [s], [i], 4": 4,
    "cp.async.cg.shared.global [s], [i], 16": 16,
    "prefetchu.L1 [i]": 4,
    "discard.global.L2 [i], 128": 128,
}
# Stores that are not where pieces of the race check begin, after others without a barrier.
MISALIGNED = {
    "one byte behind": (
        "shl.b32 b, t, 2; add.u32 s, s, b; st.shared.u32 [s], a; st.shared.u32 [s+1], a;"
    ),
    "across two": "shl.b32 b, t, 3; add.u32 s, s, b; st.shared.u64 [s], x; st.shared.u64 [s+4], x;",
    "halves": "shl.b32 b, t, 1; add.u32 s, s, b; st.shared.u16 [s], h; st.shared.u16 [s+1], h;",
    "bytes and words": (
        "st.shared.u8 [s+3], h; and.b32 b, t, 3; add.u32 s, s, b; st.shared.u32 [s+1], a;"
    ),
    "global": "shl.b32 b, t, 2; cvt.u64.u32 i, b; add.u64 i, i, d; st.u32 [i], a; st.u32 [i+2], a;",
}


def problem_of(body: str) -> str:
    """What is wrong with a kernel, launched plainly and then counted and checked."""
    try_module = simulator.library().wbsim_try_module
    try_module.restype, try_module.argtypes = ctypes.c_char_p, [ctypes.c_char_p, ctypes.c_size_t]
    image = KERNEL.format(body).encode()
    return (try_module(image, len(image)) or b"").decode()


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize("addresses", ADDRESSES)
def test_wild_addresses_are_reported(addresses: str, instruction: str):
    size = INSTRUCTIONS[instruction]
    text = instruction.format() if "i]" in instruction else f"{instruction.format()}, [i]"
    problem = problem_of(ADDRESSES[addresses].format(bytes=size) + text + ";")
    if instruction.startswith("prefetch"):
        assert problem == ""
    else:
        assert "memcheck" in problem, problem


@pytest.mark.parametrize("stores", MISALIGNED)
def test_misaligned_stores_are_reported(stores: str):
    assert "misaligned write" in problem_of(MISALIGNED[stores])
