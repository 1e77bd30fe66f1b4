"""The rungs in C++ under sanitizers, and with the vectors of other machines than this one.

tests/ladders/cpu/main.cpp runs them on a grid and compares; here it is compiled in several ways,
also with faults that each sanitizer has to find.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from workbench.toolchain import kernels_dir, tools

HERE = Path(__file__).parent / "cpu"
FLAGS = ("-std=c++20", "-g", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-fopenmp")
MEMORY = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
THREADS = ("-O1", "-fsanitize=thread")
REPORTS = ("AddressSanitizer", "ThreadSanitizer", "runtime error", "wrong at")

pytestmark = pytest.mark.full


@dataclass(frozen=True)
class Edit:
    """A change to one file: the old text, which it has once, and the new."""

    file: str
    old: str
    new: str


def program(folder: Path, flags: tuple[str, ...], edits: tuple[Edit, ...] = ()) -> Path:
    """The program, with a copy of the kernels in which ``edits`` were made."""
    texts = {path.name: path.read_text() for path in kernels_dir().glob("attention*.[ch]*")}
    texts["ladder.h"] = (kernels_dir() / "ladder.h").read_text()
    for edit in edits:
        assert texts[edit.file].count(edit.old) == 1, edit
        texts[edit.file] = texts[edit.file].replace(edit.old, edit.new)
    for name, text in texts.items():
        (folder / name).write_text(text)
    threads = "-fsanitize=thread" in flags
    sources = [HERE / "main.cpp", *sorted(folder.glob("attention_cpu*.cpp"))]
    sources += [HERE / "threads.cpp"] * threads
    compiler, objects, running = str(tools.find_cxx()), [], []
    for source in sources:
        objects.append(folder / f"{source.stem}.o")
        words = [compiler, *FLAGS, *flags, f"-I{folder}", "-c", str(source), "-o", str(objects[-1])]
        running.append(subprocess.Popen(words))
    assert [child.wait() for child in running] == [0] * len(running)
    made = folder / "program"
    link = [*flags, *([] if threads else ["-fopenmp"])]
    subprocess.run([compiler, *map(str, objects), *link, "-o", str(made)], check=True)
    return made


def told(made: Path, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The exit status of the program, and what it prints."""
    done = subprocess.run(
        [made], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("flags", [("-O3",), MEMORY, THREADS], ids=["plain", "memory", "threads"])
def test_right_and_nothing_to_report(flags, tmp_path: Path):
    assert told(program(tmp_path, flags)) == (0, "")


@pytest.mark.parametrize("isa", ["avx2", "none"])
def test_right_with_the_vectors_of_other_machines(isa, tmp_path: Path):
    narrower = {
        "avx2": Edit("attention_cpu_simd.cpp", 'HAS("avx512f") && HAS("fma")', "false"),
        "none": Edit(
            "attention_cpu_simd.h", "#define HAS(isa) __builtin_cpu_supports(isa)",
            "#define HAS(isa) false",
        ),
    }  # fmt: skip
    assert told(program(tmp_path, MEMORY, (narrower[isa],))) == (0, "")


SHARED = "omp_get_thread_num() * floats"
FAULTS = {
    "a row beyond the last": (
        MEMORY,
        Edit("attention_cpu_simd.h", "std::min(j, rows - 1) * src_row", "j * src_row"),
    ),
    "scratch too short": (
        MEMORY,
        Edit("attention_cpu_simd.cpp", "omp_get_max_threads() + 1, floats", "1, floats"),
    ),
    "scratch of another thread, flash": (
        THREADS,
        Edit("attention_cpu_flash.cpp", f"memory + {SHARED}", "memory"),
    ),
    "scratch of another thread, simd": (
        THREADS,
        Edit("attention_cpu_simd.cpp", f"aligned + {SHARED}", "aligned"),
    ),
    "a query twice": (
        THREADS,
        Edit("attention_cpu_blocked.cpp", "i0 + SIZE, p.Nq), keys", "i0 + SIZE + 1, p.Nq), keys"),
    ),
    "a maximum that is not subtracted": (
        ("-O3",),
        Edit("attention_cpu.h", "const float base = exponent_base(m);", "const float base = 0;"),
    ),
    "one key too many": (
        ("-O3",),
        Edit("attention_cpu.h", "query + 1 + Nk - Nq", "query + 2 + Nk - Nq"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault, tmp_path: Path):
    flags, edit = FAULTS[fault]
    status, text = told(program(tmp_path, flags, (edit,)))
    assert status != 0
    assert any(words in text for words in REPORTS), text
