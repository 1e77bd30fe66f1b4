"""Rows and sources to record."""

from __future__ import annotations

from workbench.harness.results import Environment, Row
from workbench.operators.texts import Sources

HERE = Environment("a device", "1.2", "2.13", "13.0", "abc", "python x.py", clocks="1, 2")
TABLE = b"// tiled\n__global__ void k() {}\n"


def row(kernel="tiled", shape="M=1,N=1,K=1", **fields) -> Row:
    """A row of the simulator."""
    fields.setdefault("counters", {"warp_instructions": 7.0})
    return Row("matmul", kernel, shape, "float32", "simulator", True, **fields)


def sources(table: bytes = TABLE, **others: bytes) -> Sources:
    """A ladder: its table with two rungs, a header that they include, a file of a third rung.

    others: the texts of ``header`` and ``more``.
    """
    files = {
        "matmul.cu": table,
        "more.cu": others.get("more", b"// more\n"),
        "common.cuh": others.get("header", b"#pragma once\n"),
    }
    own = ("matmul.cu", "common.cuh")
    return Sources(files, {"tiled": own, "naive": own, "more": ("more.cu", "common.cuh")})
