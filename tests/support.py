"""Small projects and child processes for the tests of the toolchain."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from workbench import toolchain

REPO = Path(__file__).resolve().parents[1]

ANSWER = "constexpr int ANSWER = {};\n"
FIRST = """#include "answer.cuh"
__global__ void first_kernel(int* x) { x[0] = ANSWER; }
extern "C" int answer() { return ANSWER; }
extern "C" void first(int* x) { first_kernel<<<1, 1>>>(x); }
"""
BINDINGS = 'extern "C" int workbench_register(const char*) { return 0; }\n'


@dataclass(frozen=True)
class Project:
    """A folder of kernels and a bindings file that compile in about a second."""

    kernels: Path
    bindings: Path

    @classmethod
    def create(cls, root: Path) -> Project:
        """The project in `root`; differences are repaired, and nothing else is touched."""
        project = cls(root / "kernels", root / "bindings.cpp")
        texts = {
            project.kernels / "answer.cuh": ANSWER.format(1),
            project.kernels / "first.cu": FIRST,
            project.bindings: BINDINGS,
        }
        project.kernels.mkdir(exist_ok=True)
        for file in {*project.kernels.iterdir()} - texts.keys():
            file.unlink()
        for file, text in texts.items():
            if not file.exists() or file.read_text() != text:
                file.write_text(text)
        return project

    def set_answer(self, value: int) -> None:
        """Edit the header that first.cu includes."""
        (self.kernels / "answer.cuh").write_text(ANSWER.format(value))

    def edit_bindings(self, line: str) -> None:
        """Edit the file that compiles fastest."""
        self.bindings.write_text(f"{BINDINGS}{line}\n")

    def build(self) -> Path:
        return toolchain.load_extension("simulator", self.kernels, self.bindings)

    def answer(self) -> int:
        """Build and call: the constant of answer.cuh."""
        return ctypes.CDLL(str(self.build())).answer()

    def script(self, before: str = "") -> str:
        """A Python program that builds this project like a user's script."""
        return (
            f"{before}\n"
            "from pathlib import Path\n"
            "from workbench import toolchain\n"
            "with toolchain.main_guard():\n"
            f"    print(toolchain.load_extension('simulator', Path({str(self.kernels)!r}),\n"
            f"                                   Path({str(self.bindings)!r})))\n"
        )


def python(
    *arguments: str, into: IO[str] | int = subprocess.PIPE, **environment: str
) -> subprocess.Popen[str]:
    """Start a Python child in the repository that receives Ctrl-C however pytest was started."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO), **environment},
        stdout=into,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finished(child: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a child; fails the test rather than hang."""
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        pytest.fail(f"the child process was still running after {seconds} s")
    return child.returncode, out, err


def empty_cache(folder: Path, simulator: toolchain.SimulatorLibrary) -> Path:
    """A cache with only the simulator."""
    (folder / "lib").mkdir(parents=True)
    for file in (simulator.library, simulator.archive):
        shutil.copy2(file, folder / "lib")
    return folder


def build_folder(cache: Path, name: str = "workbench_simulator") -> Path:
    (folder,) = (cache / "build").glob(f"{name}_*")
    return folder


def write_in_the_past(path: Path, text: str) -> None:
    """An edit that modification times do not show, as by a checkout or a copy."""
    path.write_text(text)
    os.utime(path, (1_000_000_000, 1_000_000_000))


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path
