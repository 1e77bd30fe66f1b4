"""Tensor maps for tests, and an independent model of copying a box of a tensor."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, product

import numpy as np

# CUtensorMapDataType: element bytes and the optional fill value for out-of-bounds elements.
TYPES = {
    "u8": (0, 1),
    "u16": (1, 2),
    "u32": (2, 4),
    "s32": (3, 4),
    "u64": (4, 8),
    "s64": (5, 8),
    "f16": (6, 2),
    "f32": (7, 4),
    "f64": (8, 8),
    "bf16": (9, 2),
    "f32_ftz": (10, 4),
    "tf32": (11, 4),
    "tf32_ftz": (12, 4),
}
SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}  # bytes: CUtensorMapSwizzle
# The simulator's layout of a CUtensorMap: simulator/src/exec/ops/tensor_map.h.
LAYOUT = np.dtype(
    [
        ("magic", "<u8"),
        ("address", "<u8"),
        ("strides", "<u8", 4),
        ("sizes", "<u4", 5),
        ("box", "<u2", 5),
        ("element_strides", "u1", 5),
        ("rank", "u1"),
        ("type", "u1"),
        ("interleave", "u1"),
        ("swizzle", "u1"),
        ("fill", "u1"),
        ("im2col", "u1"),
        ("lower_corner", "<i2", 3),
        ("upper_corner", "<i2", 3),
        ("channels_per_pixel", "<u2"),
        ("pixels_per_column", "<u2"),
    ],
    align=True,
)
MAGIC = 0x70614D726F736E54


@dataclass(frozen=True)
class Map:
    """A tensor and its box; dimension 0 is the contiguous one.

    strides: in bytes, for dimensions from 1 on. With corners it is an im2col map: box is (channels
    of a pixel, pixels of a column), corners the lower and the upper one, each W, H, D.
    """

    type: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element_strides: tuple[int, ...] = ()
    swizzle: int = 0
    nan_fill: bool = False
    corners: tuple[tuple[int, ...], tuple[int, ...]] | None = field(default=None)

    @property
    def rank(self) -> int:
        return len(self.sizes)

    @property
    def item(self) -> int:
        return TYPES[self.type][1]

    @cached_property
    def steps(self) -> tuple[int, ...]:
        return self.element_strides or (1,) * self.rank

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Elements of a box in shared memory, by dimension."""
        if self.corners:
            return self.box
        steps = (1, *self.steps[1:])
        return tuple(-(-b // s) for b, s in zip(self.box, steps, strict=True))

    @property
    def bytes(self) -> int:
        return int(np.prod(self.counts)) * self.item

    @property
    def tensor_bytes(self) -> int:
        last = sum((n - 1) * s for n, s in zip(self.sizes[1:], self.strides, strict=True))
        return last + self.sizes[0] * self.item

    def offsets(self, at: tuple[int, ...], shifts: tuple[int, ...] = ()) -> np.ndarray:
        """Byte offsets of the box's elements in the tensor, in dense order; -1: outside."""
        if self.corners:
            points = self._pixels(at, shifts)
        else:
            axes = [
                a + np.arange(n) * (s if i else 1)
                for i, (a, n, s) in enumerate(zip(at, self.counts, self.steps, strict=True))
            ]
            grid = np.meshgrid(*axes[::-1], indexing="ij")[::-1]
            points = np.stack([g.ravel() for g in grid], -1)
        inside = ((points >= 0) & (points < np.array(self.sizes))).all(-1)
        return np.where(inside, points @ np.array([self.item, *self.strides]), -1)

    def _pixels(self, at: tuple[int, ...], shifts: tuple[int, ...]) -> np.ndarray:
        channels, pixels = self.box
        rows = islice(self.positions(at[1:]), pixels)
        return np.array(
            [
                (at[0] + c, *(p + s for p, s in zip(position, (*shifts, 0), strict=True)))
                for position in rows
                for c in range(channels)
            ]
        )

    def positions(self, start: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """The pixels of the bounding box from a given one on, image by image."""
        lower, upper = self.corners
        spatial = zip(lower, upper, self.sizes[1:-1], self.steps[1:-1], strict=True)
        ranges = [range(low, size + up, step) for low, up, size, step in spatial]
        begun = False
        for image in range(start[-1], start[-1] + 100):
            for point in product(*ranges[::-1]):
                position = (*point[::-1], image)
                begun = begun or position == tuple(start)
                if begun:
                    yield position

    def swizzled(self, base: int) -> np.ndarray:
        """The offset of each byte of the dense box from the start of the box at address `base`."""
        address = base + np.arange(self.bytes)
        line, unit, byte = address // 128, address % 128 // 16, address % 16
        unit = unit ^ line % max(1, self.swizzle // 16)
        return line * 128 + unit * 16 + byte - base

    def encode(self, address: int, device: str) -> np.ndarray:
        """The 128 bytes of the map for a tensor at that address."""
        return self._for_simulator(address) if device == "cpu" else self._for_gpu(address)

    def _for_simulator(self, address: int) -> np.ndarray:
        m = np.zeros((), LAYOUT)
        m["magic"], m["address"], m["rank"] = MAGIC, address, self.rank
        m["type"], m["swizzle"], m["fill"] = (
            TYPES[self.type][0],
            SWIZZLES[self.swizzle],
            self.nan_fill,
        )
        m["strides"][: self.rank - 1] = self.strides
        m["sizes"][: self.rank] = np.array(self.sizes) - 1
        m["element_strides"][: self.rank] = self.steps
        if self.corners:
            m["im2col"] = 1
            for name, corner in zip(("lower_corner", "upper_corner"), self.corners, strict=True):
                m[name][: self.rank - 2] = corner
            m["channels_per_pixel"], m["pixels_per_column"] = self.box
        else:
            m["box"][: self.rank] = self.box
        out = np.zeros(128, np.uint8)
        out[: LAYOUT.itemsize] = np.frombuffer(m.tobytes(), np.uint8)
        return out

    def _for_gpu(self, address: int) -> np.ndarray:
        driver = ctypes.CDLL("libcuda.so.1")
        out = np.zeros(256, np.uint8)
        at = -out.ctypes.data % 128

        def array(ctype: type, values: tuple[int, ...]) -> ctypes.Array:
            return (ctype * max(1, len(values)))(*values)

        head = [
            ctypes.c_void_p(out.ctypes.data + at),
            TYPES[self.type][0],
            self.rank,
            ctypes.c_void_p(address),
            array(ctypes.c_uint64, self.sizes),
            array(ctypes.c_uint64, self.strides),
        ]
        tail = [array(ctypes.c_uint32, self.steps), 0, SWIZZLES[self.swizzle], 0, self.nan_fill]
        if self.corners:
            corners = [array(ctypes.c_int, c) for c in self.corners]
            status = driver.cuTensorMapEncodeIm2col(*head, *corners, *self.box, *tail)
        else:
            box = array(ctypes.c_uint32, self.box)
            status = driver.cuTensorMapEncodeTiled(*head, box, *tail)
        assert status == 0, f"the driver refuses {self}: {status}"
        return out[at : at + 128]
