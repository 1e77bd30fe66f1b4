"""Matrices as held by the lanes of a warp: element formats, packing, and error bounds of products.

A matrix is an array of bit patterns (uint64). A fragment says which element each lane holds at each
position; a register is an array of 32 words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

LANES = 32
BITS = {
    "f16": 16, "bf16": 16, "tf32": 32, "e4m3": 8, "e5m2": 8, "f32": 32, "f64": 64,
    "s8": 8, "u8": 8, "s4": 4, "u4": 4, "b1": 1, "s32": 32,
}  # fmt: skip
TORCH = {
    "f16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32, "f32": torch.float32,
    "e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "f64": torch.float64,
}  # fmt: skip
UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def is_float(type_: str) -> bool:
    """Whether elements are floating-point numbers."""
    return type_ in TORCH


def decode(type_: str, bits: np.ndarray) -> np.ndarray:
    """Bit patterns as float64 or int64."""
    width = BITS[type_]
    if not is_float(type_):
        values = bits.astype(np.int64) & ((1 << width) - 1)
        return np.where(values >> (width - 1) & (type_[0] == "s"), values - (1 << width), values)
    if type_ == "tf32":  # its 19 bits are the upper ones
        bits = bits & ~np.uint64(0x1FFF)
    raw = torch.from_numpy(np.ascontiguousarray(bits).astype(UNSIGNED[width]))
    return raw.view(TORCH[type_]).double().numpy()


def encode(type_: str, values: np.ndarray) -> np.ndarray:
    """Bit patterns of the numbers nearest to float64 or int64 values."""
    if not is_float(type_):
        return values.astype(np.int64).astype(np.uint64) & np.uint64((1 << BITS[type_]) - 1)
    signed = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[BITS[type_]]
    raw = torch.from_numpy(np.array(values, dtype=np.float64)).to(TORCH[type_]).view(signed)
    return raw.numpy().astype(np.int64).astype(np.uint64) & np.uint64((1 << BITS[type_]) - 1)


@dataclass(frozen=True)
class Fragment:
    """Where the elements of a matrix are.

    place: maps a lane and the index of an element in it to (row, column).
    count: elements per lane.
    """

    type: str
    rows: int
    columns: int
    count: int
    place: Callable[[int, int], tuple[int, int]]

    @property
    def per_register(self) -> int:
        return max(1, 32 // BITS[self.type])

    @property
    def registers(self) -> int:
        return self.count // self.per_register

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of [element, lane]."""
        pairs = np.array(
            [[self.place(lane, i) for lane in range(LANES)] for i in range(self.count)]
        )
        assert len({tuple(p) for p in pairs.reshape(-1, 2)}) == self.rows * self.columns
        return pairs[..., 0], pairs[..., 1]

    def pack(self, matrix: np.ndarray) -> np.ndarray:
        """Registers [register, lane] that hold a matrix."""
        elements = matrix[self.places].astype(np.uint64)
        elements = elements.reshape(self.registers, self.per_register, LANES)
        shifts = np.arange(self.per_register, dtype=np.uint64)[:, None] * np.uint64(BITS[self.type])
        return np.bitwise_or.reduce(elements << shifts, axis=1)

    def unpack(self, registers: np.ndarray) -> np.ndarray:
        """The matrix that registers hold."""
        shifts = np.arange(self.per_register, dtype=np.uint64)[:, None] * np.uint64(BITS[self.type])
        mask = np.uint64((1 << BITS[self.type]) - 1)
        matrix = np.zeros((self.rows, self.columns), dtype=np.uint64)
        elements = (registers[:, None, :] >> shifts) & mask
        matrix[self.places] = elements.reshape(self.count, LANES)
        return matrix


# ---- Operands ------------------------------------------------------------------------------------


def operands(
    types: tuple[str, str, str], m: int, n: int, k: int, kind: str, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bit patterns of A [m, k], B [k, n] and C [m, n] for types of A, B and C.

    kind: "small" integers, whose products are exact in every format; "normal" numbers; numbers that
    "cancel"; "tiny" ones, denormal if the format has denormals; "special" ones: infinities, NaNs
    and zeros of both signs; "extreme" integers.
    """
    rng = np.random.default_rng(seed)
    shapes = ((m, k), (k, n), (m, n))
    made = [_matrix(t, shape, kind, rng) for t, shape in zip(types, shapes, strict=True)]
    if kind == "cancel":  # columns 2i and 2i + 1 of A are opposite, rows of B nearly the same
        a, b, _ = made
        sign = np.uint64(1 << (BITS[types[0]] - 1))
        a[:, 1::2] = a[:, : k // 2 * 2 : 2] ^ sign
        b[1::2] = np.where(rng.random(b[1::2].shape) < 0.8, b[: k // 2 * 2 : 2], b[1::2])
    return made[0], made[1], made[2]


def _matrix(type_: str, shape: tuple[int, int], kind: str, rng: np.random.Generator) -> np.ndarray:
    width = BITS[type_]
    if not is_float(type_):
        if kind == "extreme" and type_ == "s32":
            near = rng.choice([-(2**31), 2**31 - 1], shape)
            return encode(type_, near - np.sign(near) * rng.integers(0, 3000, shape))
        if kind == "extreme":
            low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if type_[0] == "s" else (
                0, (1 << width) - 1)  # fmt: skip
            rows = rng.choice([low, high], (shape[0], 1))
            return encode(type_, np.where(rng.random(shape) < 0.9, rows, high))
        return rng.integers(0, 1 << min(width, 20), shape).astype(np.uint64)
    if kind == "small":
        bits = encode(type_, rng.integers(-4, 5, shape))
    elif kind == "tiny":
        smallest = {"f16": 2.0**-24, "e4m3": 2.0**-9, "e5m2": 2.0**-16, "f64": 5e-324}
        bits = encode(type_, rng.integers(-40, 41, shape) * smallest.get(type_, 2.0**-70))
    else:
        bits = encode(type_, rng.standard_normal(shape))
        if kind == "special":
            some = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0]
            chosen = encode(type_, rng.choice(some, shape, p=[0.3, 0.3, 0.1, 0.1, 0.1, 0.1]))
            bits = np.where(rng.random(shape) < 0.15, chosen, bits)
    if type_ == "tf32":  # the lower bits are not read
        nan = np.isnan(decode(type_, bits))
        noise = rng.integers(0, 1 << 13, shape).astype(np.uint64)
        bits = np.where(nan, bits, (bits & ~np.uint64(0x1FFF)) | noise)
    return bits


# ---- Results -------------------------------------------------------------------------------------


def check_product(
    types: tuple[str, str, str, str],
    matrices: tuple[np.ndarray, np.ndarray, np.ndarray],
    got: np.ndarray,
    *,
    saturate: bool = False,
    held: np.ndarray | None = None,
    target: str = "simulator",
    what: str = "",
) -> None:
    """Assert that D = A B + C, with types of (D, A, B, C) and bit patterns of all.

    Integers are exact: wrapped, or saturated. Floating point: on the simulator the sum in f32 errs
    by at most K * 2^-24 times the sum of all magnitudes, on a GPU by eight times that (its sums are
    truncated and aligned to the largest term), and is rounded to the type of D.

    held: which elements of a sparse A participate.
    """
    a, b, c = (decode(t, x) for t, x in zip(types[1:], matrices, strict=True))
    k = a.shape[1]
    if not is_float(types[0]):
        exact = a @ b + c
        wanted = np.clip(exact, -(2**31), 2**31 - 1) if saturate else exact
        np.testing.assert_array_equal(got, encode("s32", wanted), what)
        return
    with np.errstate(invalid="ignore", over="ignore"):
        products = a[:, :, None] * b[None]
        if held is not None:
            products[~held] = 0
        exact = products.sum(1) + c
        bound = (np.abs(products).sum(1) + np.abs(c)) * k * 2.0**-24 * (1 + k * 2.0**-24)
        bound = bound * (1 if target == "simulator" else 8) + k * 2.0**-149
        bound = np.where(np.isfinite(exact), bound, 0)
        narrow = np.float16 if types[0] == "f16" else np.float32
        low, high = (exact - bound).astype(narrow), (exact + bound).astype(narrow)
    d = decode(types[0], got)
    nan = np.isnan(exact)
    inside = np.where(nan, np.isnan(d), (low <= d) & (d <= high))
    if not inside.all():
        row, column = np.argwhere(~inside)[0]
        raise AssertionError(
            f"{what}: {(~inside).sum()} of {inside.size} elements; [{row}, {column}] is "
            f"{d[row, column]!r}, wanted {exact[row, column]!r} +- {bound[row, column]!r}"
        )
    canonical = {"f16": 0x7FFF, "f32": 0x7FFFFFFF}[types[0]]
    assert (got[nan] == canonical).all(), f"{what}: a NaN that is not canonical"
