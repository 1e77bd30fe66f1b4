"""Broken modules for the simulator: `python fuzz.py LIBRARY SEEDS FIRST COUNT` runs some of them.

A case is a number: it selects a seed (a file of the folder SEEDS, PTX text or a fat binary) and how
that is broken, the same way every time. The case's number is printed before it runs, so the last
line names the one that ended the process. The image is at the end of a page, and nothing after it
may be read; the process has 6 GB of address space, and some seconds of CPU time for each case.

`python fuzz.py LIBRARY FILE` runs one module, as it is.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import re
import resource
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.simulator.grammar import Pool, break_grammar

PAGE = mmap.PAGESIZE
ADDRESS_SPACE = 6 << 30
SANITIZED = bool(os.environ.get("WORKBENCH_SANITIZE"))  # then the sanitizer limits the memory
CPU_SECONDS = 60 if SANITIZED else 10  # for a case
TOKEN = re.compile(rb"[\w.$%]+(?:::[\w.]+)*|\s+|.", re.S)
NUMBERS = (b"0", b"-1", b"2147483648", b"4294967297", b"9223372036854775807",
           b"18446744073709551616", b"0x80000000", b"1000000000000", b"65536", b"3", b"0f7fc00000",
           b"1.5e300")  # fmt: skip
JUNK = (b"{", b"}", b"(", b")", b"[", b"]", b";", b"@", b"!", b"<", b">", b'"', b"/*", b"//",
        b"\0", b"\xff\xfe", b"%", b".", b"_", b"|", b":", b"-", b"+", b"<<", b"{" * 500,
        b"!" * 500, b"(" * 500)  # fmt: skip


def flip_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        out[rng.randrange(len(out))] = rng.choice((rng.randrange(256), rng.randrange(32, 127)))
    return bytes(out)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def break_tokens(data: bytes, rng: random.Random) -> bytes:
    """Delete, duplicate, swap or replace a few tokens."""
    tokens = TOKEN.findall(data)
    for _ in range(rng.randint(1, 4)):
        i, j = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        way = rng.randrange(5)
        if way == 0:
            tokens[i] = b""
        elif way == 1:
            tokens[i] = tokens[i] + b" " + tokens[i]
        elif way == 2:
            tokens[i], tokens[j] = tokens[j], tokens[i]
        elif way == 3:
            tokens[i] = tokens[j]
        else:
            tokens[i] = rng.choice(JUNK)
    return b"".join(tokens)


def break_numbers(data: bytes, rng: random.Random) -> bytes:
    places = list(re.finditer(rb"\b\d\w*", data))
    for match in sorted(rng.sample(places, min(len(places), rng.randint(1, 3))), key=_from_the_end):
        data = data[: match.start()] + rng.choice(NUMBERS) + data[match.end() :]
    return data


def _from_the_end(match: re.Match) -> int:
    return -match.start()


def break_lines(data: bytes, rng: random.Random) -> bytes:
    """Delete, duplicate or move a few lines."""
    lines = data.split(b"\n")
    for _ in range(rng.randint(1, 4)):
        i = rng.randrange(len(lines))
        way = rng.randrange(3)
        line = lines[i] if way == 1 else lines.pop(i)
        if way or not lines:
            lines.insert(rng.randrange(len(lines) + 1), line)
    return b"\n".join(lines)


def break_operands(data: bytes, rng: random.Random) -> bytes:
    """Give an instruction another one's operands or modifiers."""
    lines = data.split(b"\n")
    instructions = [i for i, line in enumerate(lines) if re.match(rb"\s*(@!?\S+\s+)?[a-z]", line)]
    if len(instructions) < 2:
        return data
    i, j = rng.sample(instructions, 2)
    words, others = lines[i].split(), lines[j].split()
    if words and others:
        k = rng.randrange(len(words))
        words[k] = others[rng.randrange(len(others))]
        lines[i] = b" ".join(words)
    return b"\n".join(lines)


def break_header(data: bytes, rng: random.Random) -> bytes:
    """Write a number somewhere into the headers of a fat binary."""
    out = bytearray(data)
    form, size = rng.choice((("<H", 2), ("<I", 4), ("<Q", 8)))
    if len(out) < size:  # cut short before
        return bytes(out)
    at = rng.randrange(min(len(out), 96) - size + 1)
    number = rng.choice((0, 1, 2, 15, 16, 63, 64, 80, 200, 0x7FFF, 0xFFFF, 0xFFFFFFFF, 2**63, -1))
    struct.pack_into(form, out, at, number % (1 << 8 * size))
    return bytes(out)


def is_text(data: bytes) -> bool:
    return not data.startswith(struct.pack("<I", 0xBA55ED50))


def broken(seeds: list[bytes], pool: Pool, case: int) -> bytes:
    """The image of a case: half of them are broken by the grammar, and mostly load."""
    rng = random.Random(case)
    data = rng.choice(seeds)
    if is_text(data) and rng.randrange(2):
        return break_grammar(data, rng, pool)
    ways: tuple[Callable[[bytes, random.Random], bytes], ...] = (
        (break_tokens, break_tokens, break_numbers, break_operands, break_operands, break_lines,
         flip_bytes, truncate)
        if is_text(data)
        else (break_header, break_header, flip_bytes, truncate)
    )  # fmt: skip
    for _ in range(rng.choice((1, 1, 2, 3))):
        if data:
            data = rng.choice(ways)(data, rng)
    return data


class Guarded:
    """Memory followed by an unreadable page."""

    def __init__(self, most: int) -> None:
        self.bytes = (most + PAGE - 1) // PAGE * PAGE
        self.map = mmap.mmap(-1, self.bytes + PAGE)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.end = first + self.bytes
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(self.end), PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")

    def put(self, data: bytes) -> int:
        """Copy data to the end; return its address. Raises ValueError if it does not fit."""
        if len(data) > self.bytes:
            raise ValueError(f"{len(data)} bytes do not fit into {self.bytes}")
        ctypes.memmove(self.end - len(data), data, len(data))
        return self.end - len(data)


def limit_resources() -> None:
    if not SANITIZED:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process


def main(library: str, path: str, first: str = "0", count: str = "1") -> None:
    """Run cases [first, first + count) or a file; "FIRST ok" or the error's first line for each."""
    limit_resources()
    files = sorted(Path(path).iterdir()) if Path(path).is_dir() else []
    seeds = [file.read_bytes() for file in files]
    one = b"" if seeds else Path(path).read_bytes()
    pool = Pool.of([seed for seed in seeds if is_text(seed)])
    try_module = ctypes.CDLL(library).wbsim_try_module
    try_module.restype, try_module.argtypes = ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_size_t]
    memory = Guarded(max(1 << 20, len(one)))
    for case in range(int(first), int(first) + int(count)):
        data = broken(seeds, pool, case)[: memory.bytes] if seeds else one
        print(case, end=" ", flush=True)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        answer = try_module(memory.put(data), len(data))
        signal.setitimer(signal.ITIMER_PROF, 0)
        line = (answer or b"ok").split(b"\n")[0].decode("latin1")
        print("".join(c if c.isprintable() else "?" for c in line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
