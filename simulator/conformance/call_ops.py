"""Device function calls, their parameters, and stack memory (PTX ISA 7, 9.7.12).

A function takes 16 bytes and returns them in reverse order, changed by a key. Each form of st.param
and ld.param writes its argument and reads its result, in elements of its type.
"""

from __future__ import annotations

import random

import numpy as np

from simulator.conformance.micro import BLOCK, Case, Program, grouped_source

# Types for writing and reading parameters, and the elements of a vector.
SCALARS = ("b8", "u8", "s8", "b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64",
           "f64")  # fmt: skip
VECTORS = ("v2.b8", "v2.b16", "v2.b32", "v2.f32", "v2.b64", "v2.f64", "v4.b8", "v4.b16", "v4.b32",
           "v4.f32")  # fmt: skip
TYPES = (*SCALARS, *VECTORS, "b128")

FUNCTIONS = """
extern "C" __device__ __noinline__ uint4 mix(uint4 x, unsigned key) {
  uint4 y;
  const unsigned char* from = reinterpret_cast<const unsigned char*>(&x);
  unsigned char* to = reinterpret_cast<unsigned char*>(&y);
  for (int k = 0; k < 16; k++) to[k] = from[15 - k] ^ (key + 37 * k);
  return y;
}
// With its address taken, a function keeps the alignment that the ABI gives its parameters.
__device__ uint4 (*keep_mix)(uint4, unsigned) = mix;
"""


def mixed(argument: bytes, key: int) -> bytes:
    """What `mix` returns."""
    return bytes(b ^ (key + 37 * k & 255) for k, b in enumerate(reversed(argument)))


def instructions(type_: str) -> list[str]:
    """PTX: %0 and %1 are the words of the result, %2 and %3 those of the argument, %4 the key."""
    *vector, element = type_.split(".")
    if element == "b128":
        return [
            ".reg .b128 t0",
            "mov.b128 t0, {%2, %3}",
            *call(["st.param.b128 [x], t0"]),
            "ld.param.b128 t0, [z]",
            "mov.b128 {%0, %1}, t0",
        ]
    bits = int(element[1:])
    count, lanes = 128 // bits, int(vector[0][1:]) if vector else 1
    register = f".{'b' if element[0] != 'f' else 'f'}{max(bits, 16)}"
    lines = [f".reg {register} t<{count}>", ".reg .b64 w", ".reg .b32 u", ".reg .b16 h"]
    for k in range(count):
        lines += [f"shr.b64 w, %{2 + k * bits // 64}, {k * bits % 64}"]
        lines += [f"cvt.u32.u64 u, w; mov.b32 t{k}, u"] if bits == 32 else []
        lines += [f"mov.b64 t{k}, w"] if bits == 64 else []
        lines += [f"cvt.u16.u64 t{k}, w"] if bits < 32 else []

    def each(access: str, value_first: bool) -> list[str]:
        found = []
        for k in range(0, count, lanes):
            names = [f"t{j}" for j in range(k, k + lanes)]
            value = f"{{{', '.join(names)}}}" if vector else names[0]
            place = f"[{'z' if value_first else 'x'}+{k * bits // 8}]"
            operands = f"{value}, {place}" if value_first else f"{place}, {value}"
            found.append(f"{access}.param.{type_} {operands}")
        return found

    lines += call(each("st", False))
    lines += [f"{load}" for load in each("ld", True)]
    lines += ["mov.b64 %0, 0", "mov.b64 %1, 0"]
    for k in range(count):
        lines += [f"mov.b32 u, t{k}; cvt.u64.u32 w, u"] if bits == 32 else []
        lines += [f"mov.b64 w, t{k}"] if bits == 64 else []
        lines += [f"cvt.u64.u16 w, t{k}; and.b64 w, w, {(1 << bits) - 1}"] if bits < 32 else []
        word = f"%{k * bits // 64}"
        lines += [f"shl.b64 w, w, {k * bits % 64}; or.b64 {word}, {word}, w"]
    return lines


def call(stores: list[str]) -> list[str]:
    """The call itself."""
    declared = [".param .align 16 .b8 x[16]", ".param .b32 y", ".param .align 16 .b8 z[16]"]
    return [*declared, *stores, "st.param.b32 [y], %4", "call (z), mix, (x, y)"]


def body(type_: str) -> str:
    """in: the argument's words, the key. out: the result's words."""
    text = "; ".join(instructions(type_))
    return f"""
unsigned long long r0 = out[i], r1 = out[n + i];
if (active[i]) {{
  asm volatile("{{{text};}}" : "+l"(r0), "+l"(r1)
               : "l"(in[i]), "l"(in[n + i]), "r"((unsigned)in[2 * n + i]) : "memory");
}}
out[i] = r0;
out[n + i] = r1;
"""


MASKS = (0xFFFFFFFF, 0x80000001, 0x0F3C55AA, 0)


def check_parameters(type_: str, target: str) -> None:
    """Every lane has its own argument; lanes that do not call keep their values."""
    n = 4 * BLOCK
    inputs = np.random.default_rng(5).integers(0, 1 << 64, (3, n), np.uint64)
    active = [MASKS[i // 32 % len(MASKS)] >> i % 32 & 1 for i in range(n)]
    out = np.full((2, n), 0x1234567812345678, np.uint64)
    mask = np.array(active, dtype=np.int32)
    PROGRAM.run(target, TYPES.index(type_), inputs, out, mask, n)
    for i in range(n):
        wanted = mixed(inputs[:2, i].tobytes(), int(inputs[2, i]) & 0xFFFFFFFF)
        got = out[:, i].tobytes()
        assert got == (wanted if active[i] else b"\x78\x56\x34\x12" * 4), f"lane {i}: {got.hex()}"


# ---- Cases outside the table ---------------------------------------------------------------------

SCENARIOS = """
// call.uni, through a name in a separate parameter list.
__global__ void uniform(uint4* out, unsigned key) {
  const unsigned i = threadIdx.x;
  uint4 x = make_uint4(i, 2 * i, 3 * i, 4 * i), y;
  asm volatile("{.param .align 16 .b8 x[16]; .param .b32 k; .param .align 16 .b8 z[16];"
               "st.param.v4.b32 [x], {%4, %5, %6, %7}; st.param.b32 [k], %8;"
               "call.uni (z), mix, (x, k); ld.param.v4.b32 {%0, %1, %2, %3}, [z];}"
               : "=r"(y.x), "=r"(y.y), "=r"(y.z), "=r"(y.w)
               : "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w), "r"(key) : "memory");
  out[i] = y;
}

// Ways out of a function: some lanes return, others exit.
__device__ __noinline__ unsigned leave(unsigned i, unsigned* out) {
  if (i % 3 == 0) {
    out[i] = 1000 + i;
    asm volatile("exit;");
  }
  if (i % 3 == 1) return 2 * i;
  out[i] = 1;
  return 3 * i + out[i];
}
__global__ void ways_out(unsigned* out) {
  const unsigned i = threadIdx.x;
  out[i] = leave(i, out) + 5;
}

#define ALLOCA(TO, BYTES) \\
  asm volatile("alloca.u64 %0, %1, 16; cvta.local.u64 %0, %0;" : "=l"(TO) : "l"(BYTES) : "memory")

// Memory of a lane-dependent size, in every activation of a recursive function: each fills its own,
// recurses, and finds it unchanged.
__device__ __noinline__ unsigned deeper(unsigned depth, unsigned lane) {
  const unsigned long long size = 16 + 16 * ((lane + depth) % 3);
  unsigned char* memory;
  ALLOCA(memory, size);
  unsigned wrong = reinterpret_cast<unsigned long long>(memory) % 16 != 0;
  for (unsigned k = 0; k < size; k++) memory[k] = lane * 7 + depth * 31 + k;
  unsigned below = depth ? deeper(depth - 1, lane) : 0;
  const uint4 other = mix(make_uint4(depth, lane, 3, 4), depth);  // its frame follows
  wrong += (other.x & 255) != depth;  // the highest byte of 4, changed by the key
  for (unsigned k = 0; k < size; k++) {
    wrong += memory[k] != static_cast<unsigned char>(lane * 7 + depth * 31 + k);
  }
  return below + wrong * 1000 + 1;
}
__global__ void recursive(unsigned* out) {
  const unsigned lane = threadIdx.x;
  out[lane] = deeper(lane % 4, lane);
}

// Restoring the stack frees space; earlier data stays.
__global__ void set_back(unsigned* out) {
  const unsigned lane = threadIdx.x;
  unsigned long long start, end, first, again, keep;
  unsigned same = 0, wrong = 0;
  asm volatile("alloca.u64 %0, 24;" : "=l"(keep) : : "memory");
  asm volatile("st.local.u64 [%0+16], %1;" : : "l"(keep), "l"(keep + lane) : "memory");
  asm volatile("stacksave.u64 %0;" : "=l"(start));
  asm volatile("alloca.u64 %0, 48, 16;" : "=l"(first) : : "memory");
  asm volatile("stackrestore.u64 %0;" : : "l"(start) : "memory");
  #pragma unroll 1
  for (int round = 0; round < 500; round++) {
    asm volatile("stacksave.u64 %0;" : "=l"(start));
    asm volatile("alloca.u64 %0, %1, 16;" : "=l"(again) : "l"(48ull + lane % 2 * 64) : "memory");
    asm volatile("st.local.u32 [%0+44], %1;" : : "l"(again), "r"(round) : "memory");
    unsigned read;
    asm volatile("ld.local.u32 %0, [%1+44];" : "=r"(read) : "l"(again) : "memory");
    wrong += read != round;
    same += lane % 2 == 1 || again == first;
    asm volatile("stackrestore.u64 %0;" : : "l"(start) : "memory");
  }
  asm volatile("stacksave.u64 %0;" : "=l"(end));
  unsigned long long kept;
  asm volatile("ld.local.u64 %0, [%1+16];" : "=l"(kept) : "l"(keep) : "memory");
  out[lane] = same;
  out[32 + lane] = wrong + (end != start) + (kept != keep + lane);
}

// The same with addresses of 32 bits.
__global__ void narrow(unsigned* out) {
  const unsigned lane = threadIdx.x;
  unsigned read, start, end;
  asm volatile("{.reg .b32 a, b; stacksave.u32 %1; alloca.u32 a, 32, 16; alloca.u32 b, %3;"
               "st.local.u32 [a+28], %3; st.local.u32 [b], 1; ld.local.u32 %0, [a+28];"
               "stackrestore.u32 %1; stacksave.u32 %2;}"
               : "=r"(read), "=&r"(start), "=r"(end) : "r"(lane + 4) : "memory");
  out[lane] = read + (start != end) * 1000;
}
void run_uniform(unsigned* out, unsigned key) {
  uniform<<<1, 64>>>(reinterpret_cast<uint4*>(out), key);
}
void run_ways_out(unsigned* out) { ways_out<<<1, 64>>>(out); }
void run_recursive(unsigned* out) { recursive<<<2, 64>>>(out); }
void run_set_back(unsigned* out) { set_back<<<1, 32>>>(out); }
void run_narrow(unsigned* out) { narrow<<<1, 32>>>(out); }
"""
NAMES = ("uniform", "ways_out", "recursive", "set_back", "narrow")
PROGRAM = Program(
    "call_ops",
    lambda: FUNCTIONS + grouped_source([body(type_) for type_ in TYPES]) + SCENARIOS,
    "run",
    *(f"run_{name}" for name in NAMES),
)


def run(name: str, target: str, shape: int | tuple[int, ...], *arguments: int) -> list:
    """What a scenario writes."""
    out = np.zeros(shape, dtype=np.uint32)
    PROGRAM.run(target, out, *arguments, function=f"run_{name}")
    return out.tolist()


def check_uniform(full: bool, target: str) -> None:
    key = random.Random(3).getrandbits(32)
    for i, got in enumerate(run("uniform", target, (64, 4), key)):
        argument = np.array([i, 2 * i, 3 * i, 4 * i], dtype=np.uint32).tobytes()
        assert np.array(got, dtype=np.uint32).tobytes() == mixed(argument, key), f"thread {i}"


def check_ways_out(full: bool, target: str) -> None:
    """Lanes that exit in a function write nothing after the call."""
    wanted = [(1000 + i, 2 * i + 5, 3 * i + 6)[i % 3] for i in range(64)]
    assert run("ways_out", target, 64) == wanted


def check_recursive(full: bool, target: str) -> None:
    """The requested number of activations, none of which lost its memory."""
    assert run("recursive", target, 64) == [i % 4 + 1 for i in range(64)]


def check_set_back(full: bool, target: str) -> None:
    """The same address in each of 500 rounds."""
    assert run("set_back", target, (2, 32)) == [[500] * 32, [0] * 32]


def check_narrow(full: bool, target: str) -> None:
    assert run("narrow", target, 32) == [lane + 4 for lane in range(32)]


def parameter_case(type_: str) -> Case:
    return Case(f"param {type_}", lambda full, target: check_parameters(type_, target))


CASES = [
    *map(parameter_case, TYPES),
    Case("call.uni", check_uniform),
    Case("ways out of a function", check_ways_out),
    Case("alloca in a recursive function", check_recursive),
    Case("stacksave and stackrestore", check_set_back),
    Case("alloca of 32 bits", check_narrow),
]
