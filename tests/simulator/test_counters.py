"""Counters of memory accesses against numbers computed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from simulator.compare.ncu import simulate_patterns
from simulator.compare.patterns import Pattern, patterns
from tests.support import REPO

ALL = 0xFFFFFFFF
Shape = Callable[[int], int]

# The patterns are single accesses, to unwritten memory and to the same place.
pytestmark = pytest.mark.checks("memcheck")


def counted(cases: dict[str, tuple[str, Shape, int]], *counters: str) -> dict[str, tuple[int, ...]]:
    """The counters of one launch each: operation, lane -> byte offset, mask.

    Copies write to shared memory where they read from global memory.
    """
    made = [
        Pattern(
            "test",
            name.replace(" ", "_"),
            operation,
            tuple(map(at, range(32))) * (2 if operation.startswith("copy") else 1),
            mask,
        )
        for name, (operation, at, mask) in cases.items()
    ]
    launches = simulate_patterns(made)
    return {
        name: tuple(getattr(launch, counter) for counter in counters)
        for name, launch in zip(cases, launches, strict=True)
    }


# operation, lane -> byte offset, mask, sectors, ideal sectors. A sector is 32 bytes, aligned.
GLOBAL_LOADS: dict[str, tuple[str, Shape, int, int, int]] = {
    "stride 1": ("ldg4", lambda i: 4 * i, ALL, 4, 4),  # 128 contiguous bytes
    "reversed": ("ldg4", lambda i: 4 * (31 - i), ALL, 4, 4),  # order does not matter
    "permuted": ("ldg4", lambda i: 4 * (i * 13 % 32), ALL, 4, 4),
    "stride 2": ("ldg4", lambda i: 8 * i, ALL, 8, 4),  # 256 bytes, half of them requested
    "stride 3": ("ldg4", lambda i: 12 * i, ALL, 12, 4),  # 31 * 12 + 4 = 376 bytes: 11.75 sectors
    "stride 8": ("ldg4", lambda i: 32 * i, ALL, 32, 4),  # one sector per lane
    "stride 32": ("ldg4", lambda i: 128 * i, ALL, 32, 4),
    "broadcast": ("ldg4", lambda i: 0, ALL, 1, 1),  # 4 bytes
    "two addresses": ("ldg4", lambda i: 4096 * (i % 2), ALL, 2, 1),  # 8 bytes, far apart
    "misaligned by 4": ("ldg4", lambda i: 4 * i + 4, ALL, 5, 4),  # bytes 4 to 132
    "misaligned by 16": ("ldg4", lambda i: 4 * i + 16, ALL, 5, 4),
    "half a warp": ("ldg4", lambda i: 4 * i, 0xFFFF, 2, 2),  # 64 bytes
    "every second lane": ("ldg4", lambda i: 4 * i, 0x55555555, 4, 2),  # 64 bytes out of 128
    "bytes": ("ldg1", lambda i: i, ALL, 1, 1),
    "halves": ("ldg2", lambda i: 2 * i, ALL, 2, 2),
    "8 bytes": ("ldg8", lambda i: 8 * i, ALL, 8, 8),
    "8 bytes, stride 2": ("ldg8", lambda i: 16 * i, ALL, 16, 8),
    "16 bytes": ("ldg16", lambda i: 16 * i, ALL, 16, 16),
    "16 bytes, stride 2": ("ldg16", lambda i: 32 * i, ALL, 32, 16),
    "16 bytes, misaligned by 16": ("ldg16", lambda i: 16 * i + 16, ALL, 17, 16),
}


def test_global_loads():
    cases = {name: case[:3] for name, case in GLOBAL_LOADS.items()}
    got = counted(cases, "global_load_requests", "global_load_sectors", "global_load_sectors_ideal")
    assert got == {name: (1, *case[3:]) for name, case in GLOBAL_LOADS.items()}


def test_global_stores():
    cases = {name: (case[0].replace("ld", "st"), *case[1:3]) for name, case in GLOBAL_LOADS.items()}
    got = counted(
        cases, "global_store_requests", "global_store_sectors", "global_store_sectors_ideal"
    )
    assert got == {name: (1, *case[3:]) for name, case in GLOBAL_LOADS.items()}


# Wavefronts and ideal wavefronts. There are 32 banks of 4 bytes; 8 bytes take a pass for each half
# of
# the warp, 16 bytes one for each quarter.
SHARED: dict[str, tuple[str, Shape, int, int, int]] = {
    "stride 1": ("lds4", lambda i: 4 * i, ALL, 1, 1),
    "reversed": ("lds4", lambda i: 4 * (31 - i), ALL, 1, 1),
    "stride 2": ("lds4", lambda i: 8 * i, ALL, 2, 1),  # lanes i and i + 16: one bank, two words
    "stride 3": ("lds4", lambda i: 12 * i, ALL, 1, 1),  # odd strides reach all banks
    "stride 4": ("lds4", lambda i: 16 * i, ALL, 4, 1),
    "stride 32": ("lds4", lambda i: 128 * i, ALL, 32, 1),  # one bank, 32 words
    "stride 33": ("lds4", lambda i: 132 * i, ALL, 1, 1),
    "broadcast": ("lds4", lambda i: 64, ALL, 1, 1),
    "two words of a bank": ("lds4", lambda i: 128 * (i % 2), ALL, 2, 1),
    "half a warp, stride 2": ("lds4", lambda i: 8 * i, 0xFFFF, 1, 1),
    "bytes": ("lds1", lambda i: i, ALL, 1, 1),  # 8 words
    "halves": ("lds2", lambda i: 2 * i, ALL, 1, 1),
    "8 bytes": ("lds8", lambda i: 8 * i, ALL, 2, 2),
    "8 bytes, stride 2": ("lds8", lambda i: 16 * i, ALL, 4, 2),
    "8 bytes, stride 32": ("lds8", lambda i: 256 * i, ALL, 32, 2),
    "8 bytes, half a warp": ("lds8", lambda i: 8 * i, 0xFFFF, 1, 1),
    "16 bytes": ("lds16", lambda i: 16 * i, ALL, 4, 4),
    "16 bytes, stride 2": ("lds16", lambda i: 32 * i, ALL, 8, 4),
    "16 bytes, stride 8": ("lds16", lambda i: 128 * i, ALL, 32, 4),
    # Tiles of 32 x 32 floats, read down a column, padded to 33 floats, swizzled.
    "column": ("lds4", lambda i: 4 * (32 * i + 5), ALL, 32, 1),
    "column, padded": ("lds4", lambda i: 4 * (33 * i + 5), ALL, 1, 1),
    "column, swizzled": ("lds4", lambda i: 4 * (32 * i + (5 ^ i)), ALL, 1, 1),
    "row, swizzled": ("lds4", lambda i: 4 * (32 * 7 + (i ^ 7)), ALL, 1, 1),
    # A 16 x 16 tile with blocks of 16 x 16 threads: a warp reads two of its columns, or rows.
    "16 x 16 columns": ("lds4", lambda i: 4 * (16 * (i % 16) + i // 16), ALL, 8, 1),
    "16 x 16 columns, padded": ("lds4", lambda i: 4 * (17 * (i % 16) + i // 16), ALL, 2, 1),
    "16 x 16 rows": ("lds4", lambda i: 4 * i, ALL, 1, 1),
    # Rows of 64 halves for ldmatrix: as they are, and with 16-byte pieces swizzled.
    "x1, rows of 16 bytes": ("ldsm1", lambda i: 16 * i, ALL, 1, 1),
    "x2, rows of 16 bytes": ("ldsm2", lambda i: 16 * i, ALL, 2, 2),
    "x4, rows of 16 bytes": ("ldsm4", lambda i: 16 * i, ALL, 4, 4),
    "x4, rows of 128 bytes": ("ldsm4", lambda i: 128 * i, ALL, 32, 4),  # 8 rows, 4 banks
    "x4, rows of 64 bytes": ("ldsm4", lambda i: 64 * i, ALL, 16, 4),  # two rows per line
    "x4, swizzled": ("ldsm4", lambda i: 128 * i + 16 * (i % 8), ALL, 4, 4),
    "x4, padded": ("ldsm4", lambda i: 144 * i, ALL, 4, 4),  # 36 words: 4 banks further each row
    "x4 transposed, rows of 128 bytes": ("ldsmt4", lambda i: 128 * i, ALL, 32, 4),
}


def test_shared_loads():
    cases = {name: case[:3] for name, case in SHARED.items()}
    got = counted(
        cases, "shared_load_requests", "shared_load_wavefronts", "shared_load_wavefronts_ideal"
    )
    assert got == {name: (1, *case[3:]) for name, case in SHARED.items()}


def test_shared_stores():
    cases = {
        name: (case[0].replace("ld", "st"), *case[1:3])
        for name, case in SHARED.items()
        if "broadcast" not in name
    }
    got = counted(
        cases, "shared_store_requests", "shared_store_wavefronts", "shared_store_wavefronts_ideal"
    )
    assert got == {name: (1, *SHARED[name][3:]) for name in cases}


def test_shared_stores_are_not_merged():
    # Loads of 8 and 16 bytes save passes where lanes 2 i and 2 i + 1 share an address.
    cases = {
        "8 bytes, pairs": ("lds8", lambda i: i // 2 * 8, ALL),
        "16 bytes, pairs": ("lds16", lambda i: i // 2 * 16, ALL),
        "16 bytes, broadcast": ("lds16", lambda i: 0, ALL),
        "16 bytes, quarters": ("lds16", lambda i: i % 8 * 16, ALL),  # no pairs
    }
    assert counted(cases, "shared_load_wavefronts") == {
        "8 bytes, pairs": (1,),
        "16 bytes, pairs": (2,),
        "16 bytes, broadcast": (2,),
        "16 bytes, quarters": (4,),
    }
    stores = {name: (case[0].replace("ld", "st"), *case[1:]) for name, case in cases.items()}
    assert counted(stores, "shared_store_wavefronts") == {
        "8 bytes, pairs": (2,),
        "16 bytes, pairs": (4,),
        "16 bytes, broadcast": (4,),
        "16 bytes, quarters": (4,),
    }


def test_atomics():
    # Lanes with one address are serialised, and each turn requests its sectors.
    cases = {
        "row": ("redg4", lambda i: 4 * i, ALL),
        "one address": ("redg4", lambda i: 0, ALL),
        "halves": ("redg4", lambda i: i % 16 * 4, ALL),  # two turns of 64 bytes
        "stride 8": ("atomg4", lambda i: 32 * i, ALL),
        "8 bytes": ("atomg8", lambda i: 8 * i, ALL),
    }
    assert counted(cases, "atomic_requests", "atomic_sectors", "atomics") == {
        "row": (1, 4, 32),
        "one address": (1, 32, 32),
        "halves": (1, 4, 32),
        "stride 8": (1, 32, 32),
        "8 bytes": (1, 8, 32),
    }


def test_shared_atomics():
    cases = {
        "row": ("atoms4", lambda i: 4 * i, ALL),
        "one address": ("reds4", lambda i: 0, ALL),
        "stride 2": ("exchs4", lambda i: 8 * i, ALL),
        "compare and swap": ("cass4", lambda i: 4 * i, ALL),  # reads in one pass, then writes
        "8 bytes, compare and swap": ("cass8", lambda i: 8 * i, ALL),  # the same for each half
    }
    assert counted(cases, "shared_atomic_requests", "shared_atomic_wavefronts") == {
        "row": (1, 1),
        "one address": (1, 32),
        "stride 2": (1, 2),
        "compare and swap": (1, 2),
        "8 bytes, compare and swap": (1, 4),
    }


def test_local_memory_is_interleaved():
    # Word i of all lanes is contiguous: the same index in each lane is a row of 128 bytes. A store
    # to word
    # 0 comes first: 4 sectors. There is one request per word.
    cases = {
        "same index": ("local4", lambda i: 8, ALL),
        "a word further each lane": ("local4", lambda i: 4 * i, ALL),  # each in a separate line
        "16 bytes": ("local16", lambda i: 0, ALL),  # and 4 words are stored
    }
    assert counted(cases, "local_requests", "local_sectors") == {
        "same index": (2, 4 + 4),
        "a word further each lane": (2, 4 + 32),
        "16 bytes": (8, 16 + 16),
    }


def test_asynchronous_copies():
    # cp.async reads global memory and writes shared memory; .cg bypasses L1, .ca fills it.
    cases = {
        "4 bytes": ("copy4", lambda i: 4 * i, ALL),
        "16 bytes": ("copy16", lambda i: 16 * i, ALL),
        "16 bytes, one source": ("copy16", lambda i: 0, ALL),
        "16 bytes, past L1": ("copy16cg", lambda i: 32 * i, ALL),
    }
    got = counted(
        cases,
        "global_load_sectors",
        "shared_store_wavefronts",
        "l2_read_sectors",
        "bulk_load_bytes",
    )
    assert got == {
        "4 bytes": (4, 1, 4, 0),
        "16 bytes": (16, 4, 16, 0),
        "16 bytes, one source": (1, 32, 1, 0),  # which its lanes read in turn
        "16 bytes, past L1": (32, 0, 32, 0),
    }


def test_bulk_copies():
    cases = {
        "load": ("bulkload", lambda i: 1024, 1),
        "store": ("bulkstore", lambda i: 4096, 1),
    }
    counters = ("bulk_load_bytes", "bulk_store_bytes", "l2_read_sectors", "l2_write_sectors")
    assert counted(cases, *counters, "global_load_sectors", "dram_write_bytes") == {
        "load": (1024, 0, 32, 0, 0, 0),
        "store": (0, 4096, 0, 128, 0, 4096),
    }


# Where the GPU's number differs from the simulator's, and why: docs/counters.md.
EXPLAINED = ("walk 2", "walk 32K", "copy16cg broadcast>row")


def test_patterns_as_a_gpu_counts_them():
    file = REPO / "docs" / "results" / "nvidia-h100-80gb-hbm3-ncu.json"
    gpu = json.loads(file.read_text())["patterns"]
    every = patterns()
    wrong = []
    for pattern, launch in zip(every, simulate_patterns(every), strict=True):
        what = f"{pattern.operation} {pattern.name}"
        for counter, expected in gpu[what].items():
            got = getattr(launch, counter)
            if got != expected and not what.startswith(EXPLAINED):
                wrong.append(f"{what}: {counter} {got}, on the GPU {expected}")
    assert not wrong, "\n".join(wrong)
