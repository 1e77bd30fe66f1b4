"""Misused atomics, barriers, clusters, jumps and stacks: each is a finding."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from simulator import SimulatorError
from simulator.conformance.micro import Program


@dataclass(frozen=True)
class Misuse:
    """What a kernel does wrong, in lane `lane` of block `block`, and the report.

    code: CUDA; `out` has 64 words, `in` is an input of 64 words, both at a multiple of 128 bytes.
    """

    code: str
    kind: str
    text: str
    threads: int = 64
    blocks: int = 1
    cluster: int = 1


def asm(text: str, operands: str = "") -> str:
    return f'asm volatile("{{{text}}}" : : {operands} : "memory");'


ADDRESS = '"l"(out)'
SHARED = '"r"((unsigned)__cvta_generic_to_shared(slot))'
FAR = "mapa.shared::cluster.u32 a, %0, 1;"
CASES = {
    # Atomics are aligned to their whole size.
    "half": Misuse(
        asm(".reg .b32 h; mov.b32 h, 0; red.global.add.noftz.f16x2 [%0+2], h;", ADDRESS),
        "memcheck", "misaligned atomic update of 4 bytes",
    ),
    "cas16": Misuse(
        asm(".reg .b16 h; mov.b16 h, 1; atom.cas.b16 h, [%0+1], h, h;", ADDRESS),
        "memcheck", "misaligned atomic update of 2 bytes",
    ),
    "vector": Misuse(
        asm(".reg .f32 f; mov.f32 f, 0f00000000; red.global.add.v4.f32 [%0+8], {f, f, f, f};",
            ADDRESS),
        "memcheck", "misaligned atomic update of 16 bytes",
    ),
    "halves": Misuse(
        asm(".reg .b16 h; mov.b16 h, 1; red.global.max.noftz.v8.bf16 [%0+4], {h,h,h,h,h,h,h,h};",
            ADDRESS),
        "memcheck", "misaligned atomic update of 16 bytes",
    ),
    "beyond": Misuse(
        asm(".reg .f32 f; mov.f32 f, 0f00000000; red.global.add.v2.f32 [%0+256], {f, f};", ADDRESS),
        "memcheck", "out-of-bounds atomic update of 8 bytes in global memory, just past the end of",
    ),
    "exch128": Misuse(
        asm(".reg .b128 q; mov.b128 q, {%0, %0}; atom.exch.b128 q, [%0+8], q;", ADDRESS),
        "memcheck", "misaligned atomic update of 16 bytes",
    ),
    "cas128 of an input": Misuse(
        asm(".reg .b128 q; mov.b128 q, {%0, %0}; atom.global.cas.b128 q, [%0], q, q;", '"l"(in)'),
        "memcheck", "which is an input",
    ),
    "load128": Misuse(
        asm(".reg .b128 q; ld.global.b128 q, [%0+8];", ADDRESS), "memcheck", "misaligned read of 16"
    ),
    "discard": Misuse(
        asm("discard.global.L2 [%0+64], 128;", ADDRESS), "memcheck", "misaligned write of 128 bytes"
    ),
    "discard of an input": Misuse(
        asm("discard.L2 [%0], 128;", '"l"(in)'), "memcheck", "which is an input"
    ),
    # Barriers.
    "count": Misuse(
        asm("barrier.sync 1, %0;", '"r"(blockDim.x - 1)'), "synccheck", "a barrier of 63 threads"
    ),
    "huge count": Misuse(
        asm("barrier.sync 1, %0;", '"r"(1u << 31)'), "synccheck", "a barrier of 2147483648 threads"
    ),
    "number": Misuse(
        asm(".reg .pred p; setp.eq.u32 p, %0, 0; barrier.red.or.pred p, %0, p;", '"r"(i + 16)'),
        "synccheck", "barrier 16 does not exist",
    ),
    "absent lanes": Misuse(
        asm(".reg .pred p; setp.ne.u32 p, %0, 5; .reg .b32 r; @p barrier.red.popc.u32 r, 0, p;",
            '"r"(i)') + "if (i == 5) while (true) asm volatile(\"barrier.sync 2;\");",
        "synccheck", "deadlock: 64 threads wait forever at 2 places",
    ),
    "too few": Misuse(asm("bar.sync 3, 96;"), "synccheck", "deadlock: 64 threads wait"),
    # Clusters.
    "arrive twice": Misuse(
        asm("barrier.cluster.arrive; barrier.cluster.arrive;"),
        "synccheck", "arrives at the cluster's barrier again", cluster=2, blocks=2,
    ),
    "wait only": Misuse(
        asm("barrier.cluster.wait;"), "synccheck", "deadlock: 128 threads wait", cluster=2, blocks=2
    ),
    "one block waits": Misuse(
        "if (blockIdx.x == 1) " + asm("barrier.cluster.arrive; barrier.cluster.wait;")
        + " else while (true) " + asm("barrier.sync 1, 96;"),
        "synccheck", r"barrier 1 of block 0(?s:.)*the barrier of the cluster: 64 of its 128",
        cluster=2, blocks=2,
    ),
    "rank": Misuse(
        asm(".reg .b32 a; mapa.shared::cluster.u32 a, %0, 2;", SHARED),
        "memcheck", "block 2 of a cluster of 2 does not exist", cluster=2, blocks=2,
    ),
    "rank without a cluster": Misuse(
        asm(".reg .b64 a; mapa.u64 a, %0, 1;", '"l"(slot)'),
        "memcheck", "block 1 of a cluster of 1 does not exist",
    ),
    "made-up address": Misuse(
        asm(".reg .b32 a; add.u32 a, %0, 0x05000000; ld.shared::cluster.u32 a, [a];", SHARED),
        "memcheck", "block 4 of a cluster of 2", cluster=2, blocks=2,
    ),
    "rank of nothing": Misuse(
        asm(".reg .b32 a; add.u32 a, %0, 0x05000000; getctarank.shared::cluster.u32 a, a;", SHARED),
        "memcheck", "is in no block of the cluster", cluster=2, blocks=2,
    ),
    "beyond the other block": Misuse(
        asm(".reg .b32 a;" + FAR + "st.shared::cluster.u32 [a+256], 1;", SHARED),
        "memcheck", "out-of-bounds write of 4 bytes in shared memory, just past the end of the "
        "shared memory of block 1 of a cluster of 2", cluster=2, blocks=2,
    ),
    "misaligned in the other block": Misuse(
        asm(".reg .b32 a;" + FAR + "red.shared::cluster.add.u32 [a+2], 1;", SHARED),
        "memcheck", "misaligned atomic update of 4 bytes", cluster=2, blocks=2,
    ),
    **{
        f"{what} of a block that has exited": Misuse(
            "if (blockIdx.x == 1) return; for (int n = 0; n < 99; n++) __nanosleep(9);" 
            + asm(".reg .b32 a; .reg .b64 g;" + FAR + code, SHARED),
            "memcheck", "the shared memory of the cluster's block 1, which has exited",
            cluster=2, blocks=2,
        )
        for what, code in {
            "read": "ld.shared::cluster.b32 a, [a];",
            "generic write": "cvt.u64.u32 g, a; cvta.shared::cluster.u64 g, g; st.b32 [g], 7;",
            "atomic": "atom.shared::cluster.add.u32 a, [a], 1;",
        }.items()
    },
    # Steps between lanes so large that the last lane of a half is near the first again.
    "wrapped": Misuse(
        '_Pragma("unroll 1") for (unsigned long long k = 0; k < 2; k++) '
        + asm(".reg .b32 r; ld.global.b32 r, [%0];",
              '"l"((unsigned long long)out + k * 0xbbbbbbbbbbbbbbbcull * (i % 16))'),
        "memcheck", "out-of-bounds read of 4 bytes in global memory",
    ),
    # What ends a kernel.
    "jump": Misuse(
        asm("WAYS: .branchtargets A, B; brx.idx %0, WAYS; A: B:", '"r"(i + 2)'),
        "trap", "brx.idx takes target 2 of a list of 2",
    ),
    "trap": Misuse("if (i == 0) " + asm("trap;"), "trap", "executed a trap"),
    "brkpt": Misuse("if (i == 0) " + asm("brkpt;"), "trap", "reached a breakpoint"),
    # The stack.
    "alloca": Misuse(
        asm(".reg .b64 a; alloca.u64 a, %0;", '"l"((i + 1ull) << 30)'), "memcheck", "stack overflow"
    ),
    "alloca in a loop": Misuse(
        "while (true) " + asm(".reg .b64 a; alloca.u64 a, 64;"), "memcheck", "stack overflow"
    ),
    "stackrestore": Misuse(
        asm(".reg .b64 a; alloca.u64 a, 16; stackrestore.u64 %0;", '"l"(1ull << 20)'),
        "memcheck", "stackrestore to an address",
    ),
}  # fmt: skip

KERNEL = """
__global__ void kernel_{index}(unsigned* out, const unsigned* in) {{
  __shared__ unsigned slot[64];
  const unsigned i = threadIdx.x;
  slot[i] = i;
  {code}  // case {index}
  out[i] = slot[63 - i];
}}
"""


def source() -> str:
    kernels = [KERNEL.format(index=k, code=case.code) for k, case in enumerate(CASES.values())]
    calls = [
        f"    case {k}: launch(kernel_{k}, {c.blocks}, {c.threads}, {c.cluster}, out, in); break;"
        for k, c in enumerate(CASES.values())
    ]
    return f"""
#include <cuda_runtime.h>
{"".join(kernels)}
void launch(void (*kernel)(unsigned*, const unsigned*), int blocks, int threads, int cluster,
            unsigned* out, const unsigned* in) {{
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {{}};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.attrs = &attribute;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, kernel, out, in);
}}
void run(int which, unsigned* out, const unsigned* in) {{
  switch (which) {{
{chr(10).join(calls)}
  }}
}}
"""


PROGRAM = Program("misuse", source, alone=True)


@pytest.fixture
def module():
    return PROGRAM.module("simulator")


def aligned_words() -> torch.Tensor:
    """64 words that start at a multiple of 128 bytes."""
    whole = torch.zeros(64 + 32, dtype=torch.uint32)
    first = -whole.data_ptr() % 128 // 4
    return whole[first : first + 64]


@pytest.mark.checks("memcheck")  # whatever else may be wrong
@pytest.mark.parametrize("which", CASES)
def test_misuse_is_found(module, which: str):
    case, index = CASES[which], list(CASES).index(which)
    with pytest.raises(SimulatorError) as error:
        module.run(index, aligned_words(), aligned_words())
    finding = error.value
    assert finding.kind == case.kind, str(finding)
    assert re.search(case.text, str(finding)), str(finding)
    assert finding.kernel.endswith(f"kernel_{index}")
    assert Path(finding.file).name == "misuse.cu"
    line = source().splitlines()[finding.line - 1]
    assert line.endswith(f"// case {index}"), line
