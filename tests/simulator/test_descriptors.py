"""wgmma's descriptors: swizzles that differ from the copy's, and what is said about a geometry.

Every product is D [64, 8] = A [64, 16] * B^T with one-hot rows of B, so that D is A's first eight
columns. tests/kernels/wrong/descriptors.cu has whole kernels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import simulator
from simulator.conformance.micro import Program
from simulator.conformance.tensor_maps import Map
from tests.support import finished, python

SOURCE = """
#include <cuda.h>
#include <cstdint>
#include <cstring>
using u64 = unsigned long long;
constexpr int BARRIER = 512, TILE = 1024;  // in shared memory; B is at 0

enum Writer { COPY, COPY_THEN_THREADS, THREADS, COPY_WITHOUT_WAIT };

__device__ unsigned address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
#define COPY_BOX(dims, at)                                                                     \\
  asm volatile("cp.async.bulk.tensor." dims                                                    \\
               ".shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, " at      \\
               "], [%2];" ::"r"(address(memory) + TILE + place), "l"(&map),                    \\
               "r"(address(memory) + BARRIER) : "memory")
__device__ void copy(unsigned char* memory, const CUtensorMap& map, int rank, int bytes,
                     int place) {
  const unsigned barrier = address(memory) + BARRIER;
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
  if (rank == 1) COPY_BOX("1d", "{0}");
  if (rank == 2) COPY_BOX("2d", "{0, 0}");
  if (rank == 3) COPY_BOX("3d", "{0, 0, 0}");
}

template <int MN>
__global__ void product_kernel(const __grid_constant__ CUtensorMap map, int rank, int bytes,
                               int place, int writer, const int* image, u64 a, float* out) {
  __shared__ __align__(1024) unsigned char memory[16384];
  const int t = threadIdx.x;
  unsigned short* b = reinterpret_cast<unsigned short*>(memory);  // two columns of 16 bytes
  b[t] = t < 64 && t % 8 == t / 8 ? 0x3F80 : 0;
  if (t == 0 && writer != THREADS) copy(memory, map, rank, bytes, place);
  __syncthreads();
  if (writer == COPY || writer == COPY_THEN_THREADS) {
    asm volatile("{.reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0;"
                 "@!done bra again;}" ::"r"(address(memory) + BARRIER) : "memory");
  }
  if (writer == COPY_THEN_THREADS || writer == THREADS) {
    int* tile = reinterpret_cast<int*>(memory + TILE + place);
    for (int i = t; i < bytes / 4; i += 128) tile[i] = image[i];
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  float d[4] = {};
  a += (address(memory) + TILE) >> 4;
  const u64 columns = address(memory) >> 4 | u64{128 / 16} << 16 | u64{128 / 16} << 32;
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  asm volatile(
      "{.reg .pred add; setp.ne.b32 add, 0, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3}, %4, %5, add, 1, 1, %6, 0;}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(columns), "n"(MN) : "memory");
  asm volatile("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;" ::: "memory");
  for (int j = 0; j < 4; j++) {
    out[(t / 32 * 16 + t % 32 / 4 + j / 2 * 8) * 8 + t % 4 * 2 + j % 2] = d[j];
  }
}
void product(const int* tensor, const int* map, int rank, int bytes, int place, int writer,
             const int* image, long long a, int mn, float* out) {
  CUtensorMap copied;
  std::memcpy(&copied, map, sizeof copied);
  auto kernel = mn ? product_kernel<1> : product_kernel<0>;
  kernel<<<1, 128>>>(copied, rank, bytes, place, writer, image, a, out);
}
"""
PROGRAM = Program("descriptors", SOURCE, "product")

COPY, COPY_THEN_THREADS, THREADS, COPY_WITHOUT_WAIT = range(4)  # who writes the tile
MODES = {0: 0, 128: 1, 64: 2, 32: 3}  # bits 62 and 63 by the swizzle's bytes
ORDERS = ("ascending", "descending", "random")
BYTES = 8192  # of a tile


@dataclass(frozen=True)
class Described:
    """A descriptor of A; ``start`` is a byte of the tile, which begins at a multiple of 1024."""

    swizzle: int = 0
    leading: int = 16
    stride: int = 1024
    start: int = 0
    base_offset: int = 0
    mn: bool = False

    def bits(self) -> int:
        bits = self.start >> 4 | (self.leading >> 4) << 16 | (self.stride >> 4) << 32
        bits |= self.base_offset << 49 | MODES[self.swizzle] << 62
        return bits - (bits >> 63 << 64)  # signed


def box(swizzle: int, wide: int = 0) -> Map:
    """A tile of rows, as wide as the swizzle or ``wide`` bytes."""
    wide = wide or swizzle
    return Map("bf16", (wide // 2, BYTES // wide), (wide,), (wide // 2, BYTES // wide), (), swizzle)


def numbers(count: int = BYTES // 2) -> torch.Tensor:
    """Different in a row, and from row to row."""
    return ((7 * torch.arange(count)) % 251).to(torch.bfloat16)


def product(
    described: Described,
    copied: Map | None = None,
    writer: int = COPY,
    image: np.ndarray | None = None,
    place: int = 0,
    order: str = "ascending",
    checks: str = "all",
    size: int = BYTES,
) -> np.ndarray:
    """D, of a tile of ``numbers`` that a tensor copy writes, or of an image that threads write."""
    data, out = numbers().view(torch.int32), torch.zeros(64, 8)
    copied = copied or box(128)
    encoded = torch.from_numpy(copied.encode(data.data_ptr(), "cpu").view(np.int32))
    words = torch.zeros(BYTES // 4, dtype=torch.int32) if image is None else torch.from_numpy(image)
    with simulator.settings(checks=checks, order=order, seed=1):
        run = PROGRAM.module("simulator").product
        mn = int(described.mn)
        about = (copied.rank, size, place, writer, words, described.bits(), mn)
        run(data, encoded, *about, out)
    return out.numpy()


def finding(*args: object, **more: object) -> simulator.SimulatorError:
    with pytest.raises(simulator.SimulatorError) as caught:
        product(*args, **more)
    return caught.value


def line_of(text: str) -> int:
    return next(i for i, line in enumerate(SOURCE.splitlines(), 1) if text in line)


def rows_of(row: int) -> np.ndarray:
    """The first eight columns of the tile as a matrix with rows of so many bytes."""
    return numbers().float().numpy().reshape(-1, row // 2)[:64, :8]


# ---- The copy's swizzle, and the descriptor's ----------------------------------------------------


def words(swizzle: int) -> str:
    return f"a {swizzle}-byte swizzle" if swizzle else "no swizzle"


@pytest.mark.parametrize(
    ("theirs", "ours"), [pair for pair in itertools.product(MODES, MODES) if pair != (0, 0)]
)
def test_a_swizzle_is_that_of_the_copy(theirs: int, ours: int) -> None:
    copied = box(theirs, theirs or ours)
    described = Described(ours, stride=8 * (ours or 16))
    if theirs == ours:
        np.testing.assert_array_equal(product(described, copied), rows_of(ours))
        return
    for order in ORDERS:
        error = finding(described, copied, order=order)
        text = str(error)
        assert error.kind == "memcheck", text
        assert f"wgmma reads matrix A with {words(ours)}, but the tensor copy wrote" in text
        assert f"'memory' (byte {error.address - 1024}) with {words(theirs)}" in text
        assert f"is {MODES[theirs]} for a tensor map with CU_TENSOR_MAP_SWIZZLE_" in text
        assert f"here it is {MODES[ours]}" in text
        assert "wgmma.mma_async" in text and error.line > line_of("wgmma.fence")
        assert error.other_line == line_of('COPY_BOX("2d"') and error.other_file == error.file


@pytest.mark.parametrize("checks", ["racecheck", "initcheck"])
def test_either_check_that_remembers_writes_finds_it(checks: str) -> None:
    assert finding(Described(64), box(128), checks=checks).kind == "memcheck"
    with pytest.raises(AssertionError):  # silent, and wrong
        wrong = product(Described(64, stride=512), box(128), checks="memcheck")
        np.testing.assert_array_equal(wrong, rows_of(128))


def test_mn_major_matrices_too() -> None:
    # 16 k of 64 rows of A: 128 bytes.
    described = Described(128, leading=0, stride=1024, mn=True)
    got = product(described, box(128))
    np.testing.assert_array_equal(got, numbers().float().numpy().reshape(64, 64)[:8].T)
    error = finding(replace(described, swizzle=64, leading=1024), box(128))
    assert error.kind == "memcheck" and "A with a 64-byte swizzle" in str(error)


def test_rows_of_16_bytes_without_any_swizzle() -> None:
    """[64, 64] in columns of 16 bytes: a box of three dimensions."""
    columns = Map("bf16", (8, 64, 8), (128, 16), (8, 64, 8))
    for order in ORDERS:
        got = product(Described(leading=1024, stride=128), columns, order=order)
        np.testing.assert_array_equal(got, rows_of(128))


def swizzled(swizzle: int) -> np.ndarray:
    """The tile as a copy with this swizzle writes it."""
    dense = numbers().view(torch.int16).numpy().view(np.uint8)
    out = np.zeros_like(dense)
    out[box(swizzle).swizzled(0)] = dense
    return out.view(np.int32)


@pytest.mark.parametrize("writer", [THREADS, COPY_THEN_THREADS])
@pytest.mark.parametrize("order", ORDERS)
def test_threads_swizzle_as_they_like(writer: int, order: str) -> None:
    described = Described(64, stride=512)
    got = product(described, box(128), writer, swizzled(64), order=order)
    np.testing.assert_array_equal(got, rows_of(64))


def test_a_copy_of_bytes_may_have_been_swizzled_before() -> None:
    product(Described(128), Map("bf16", (256,), (), (256,)), size=512, checks="racecheck")


def test_a_copy_that_nobody_waited_for_is_a_race() -> None:
    error = finding(Described(64, stride=512), box(128), COPY_WITHOUT_WAIT)
    assert error.kind == "racecheck", str(error)
    assert "while a bulk copy is still writing there" in str(error)
    assert "the descriptor of A: start 'memory' (byte 1024)" in str(error)


# ---- The geometry in words -----------------------------------------------------------------------

COLUMNS = Described(leading=1024, stride=128)  # [64, 16] in two columns of 16 bytes
GEOMETRIES = [
    (
        COLUMNS,
        "LBO 1024, SBO 128, no swizzle, K-major",
        "A is 64 rows of 32 bytes along K: rows are 16 bytes apart, groups of 8 rows 128 (SBO), "
        "the 16-byte pieces of a row 1024 (LBO); bytes 1024 to 3071 of shared memory",
    ),
    (
        Described(128),
        "LBO 16, SBO 1024, a 128-byte swizzle, K-major",
        "A is 64 rows of 32 bytes along K: rows are 128 bytes apart, groups of 8 rows 1024 "
        "(SBO); not used here: LBO; bytes 1024 to 9215 of shared memory",
    ),
    (
        Described(leading=1024, stride=128, mn=True),
        "LBO 1024, SBO 128, no swizzle, MN-major",
        "A is 64 rows at 16 k: k are 16 bytes apart, groups of 8 k 1024 (LBO), groups of 8 rows "
        "128 (SBO); bytes 1024 to 3071 of shared memory",
    ),
    (
        Described(64, leading=2048, stride=512, mn=True),
        "LBO 2048, SBO 512, a 64-byte swizzle, MN-major",
        "A is 64 rows at 16 k: k are 64 bytes apart, groups of 8 k 512 (SBO), groups of 32 rows "
        "2048 (LBO); bytes 1024 to 4095 of shared memory",
    ),
    (
        Described(128, leading=0, stride=1024, mn=True),
        "LBO 0, SBO 1024, a 128-byte swizzle, MN-major",
        "A is 64 rows at 16 k: k are 128 bytes apart, groups of 8 k 1024 (SBO); not used here: "
        "LBO; bytes 1024 to 3071 of shared memory",
    ),
]


def noted(described: Described, checks: str = "all", **more: object) -> Iterator[simulator.Note]:
    """The notes of a launch; threads write A."""
    with simulator.record(addresses=False) as launches:
        product(described, writer=THREADS, checks=checks, **more)
    return launches[0].notes


@pytest.mark.parametrize(("described", "strides", "rows"), GEOMETRIES)
def test_a_descriptor_in_words(described: Described, strides: str, rows: str) -> None:
    a, b = noted(described)
    assert a.text.splitlines() == [
        f"the descriptor of A: start 'memory' (byte 1024), {strides}",
        f"  read this way, {rows}",
    ]
    assert "B is 8 columns of 32 bytes along K: columns are 16 bytes apart" in b.text
    assert not a.odd and not b.odd
    assert a.line == b.line > line_of("wgmma.fence") and a.file.endswith("descriptors.cu")


def test_notes_cost_nothing_without_checks_and_records_of_addresses() -> None:
    assert not noted(COLUMNS, checks="memcheck")
    with simulator.record() as launches:
        product(COLUMNS, writer=THREADS, checks="memcheck")
    assert len(launches[0].notes) == 2


# ---- Strides exchanged ---------------------------------------------------------------------------

EXCHANGED = "with LBO and SBO exchanged, all of A would be in memory that has been written"


@pytest.mark.parametrize("order", ORDERS)
def test_exchanged_strides_that_reach_unwritten_memory(order: str) -> None:
    described = Described(leading=128, stride=1024)
    error = finding(described, writer=THREADS, size=2048, order=order)
    assert error.kind == "initcheck", str(error)
    assert f"{EXCHANGED}\n  the descriptor of A: start 'memory' (byte 1024), LBO 128" in str(error)
    mn = finding(replace(COLUMNS, leading=128, stride=1024, mn=True), writer=THREADS, size=2048)
    assert mn.kind == "initcheck" and EXCHANGED in str(mn)


def test_what_would_not_help_is_not_advised() -> None:
    error = finding(Described(leading=1024, stride=1024), writer=THREADS, size=2048)
    assert error.kind == "initcheck" and "exchanged" not in str(error)
    assert "groups of 8 rows 1024 (SBO)" in str(error)


@pytest.mark.parametrize(
    ("described", "exchanged"),
    [
        (Described(leading=256, stride=128), True),
        (Described(128, leading=1024, stride=16), True),
        (Described(64, leading=512, stride=2048, mn=True), False),
        (Described(leading=256, stride=128, mn=True), True),
        (Described(leading=128, stride=64), None),
        (Described(128, leading=16, stride=0), None),
    ],
)
def test_parts_of_a_matrix_that_are_the_same_bytes(described: Described, exchanged: bool) -> None:
    a, _ = noted(described)
    same = "several parts of A are the same bytes"
    if exchanged is False:
        assert not a.odd, a.text
    else:
        assert a.odd and a.text.startswith(same), a.text
        assert ("; with LBO and SBO exchanged, none would be" in a.text) == (exchanged is True)


# ---- Starts that the swizzle does not expect -----------------------------------------------------


@pytest.mark.parametrize(
    ("swizzle", "place", "lines"),
    [(128, 128, 128), (128, 896, 896), (64, 640, 128), (32, 128, 128)],
)
def test_a_tile_that_is_not_aligned_to_its_swizzle(swizzle: int, place: int, lines: int) -> None:
    described = Described(swizzle, stride=8 * swizzle, start=place)
    with simulator.record(addresses=False) as launches:
        got = product(described, box(swizzle), place=place)
    np.testing.assert_array_equal(got, rows_of(swizzle))  # right, and yet
    behind = (
        f" is {lines} bytes behind a multiple of {8 * swizzle}, where the pattern of a "
        f"{swizzle}-byte swizzle begins"
    )
    notes = {note.text.split(" is ")[0]: note for note in launches[0].notes}
    for subject in ("the destination of the copy", "the start of A"):
        assert notes[subject].odd and notes[subject].text.startswith(subject + behind)
    note = notes["the start of A"]
    assert f"align it to {8 * swizzle} bytes\n  the descriptor of A: start" in note.text


@pytest.mark.parametrize(
    "described",
    [
        Described(128, start=32),  # the next K of the same rows
        Described(128, start=96),
        Described(64, stride=512, start=32),
        Described(128, start=128, base_offset=1),
        Described(64, stride=512, start=1152, base_offset=1),
        Described(leading=1024, stride=128, start=128),
    ],
)
def test_starts_within_the_pattern(described: Described) -> None:
    assert not noted(described, checks="racecheck")[0].odd


# ---- Where notes are shown -----------------------------------------------------------------------

MAIN = """
int main() {
  int* image;
  float* out;
  cudaMalloc(&image, 8192);
  cudaMemset(image, 0, 8192);
  cudaMalloc(&out, 2048);
  const CUtensorMap map{};
  const auto words = reinterpret_cast<const int*>(&map);
  for (int i = 0; i < 2; i++) {
    product(image, words, 0, 8192, 0, THREADS, image, BITS, 0, out);
  }
  return cudaDeviceSynchronize();
}
"""


@pytest.mark.full
def test_a_program_prints_what_is_odd(tmp_path: Path) -> None:
    file = tmp_path / "odd.cu"
    bits = Described(leading=256, stride=128).bits()
    file.write_text(f"{SOURCE}constexpr long long BITS = {bits};{MAIN}")
    status, _, err = finished(python("build.py", "run", "--check", str(file)), 120)
    assert status == 0, err
    assert err.count("simulator: note: several parts of A are the same bytes; with LBO and") == 1
    assert "  at " in err and "odd.cu:" in err and "the descriptor of B" not in err
    silent = finished(python("build.py", "run", "--check=memcheck", str(file)), 120)
    assert silent[0] == 0 and "note" not in silent[2]
