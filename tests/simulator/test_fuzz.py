"""Broken PTX and fat binaries: an error each, and never a crash, a hang or excessive memory."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import simulator
from simulator import sanitize
from simulator.conformance import FAMILIES, cases
from simulator.conformance.micro import Form, FormCase
from tests.simulator import fuzz
from tests.simulator.grammar import Pool
from tests.support import REPO
from workbench.toolchain import load_extension, tools
from workbench.toolchain.paths import cache_dir
from workbench.toolchain.simulator import process_simulator

PER_SEED = 40  # forms
BATCH = 250
SECONDS = 600  # for a batch
TRIES = 300  # runs that make a failing module smaller


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of valid modules: the project's kernels, every lane-wise form, handwritten PTX."""
    folder = tmp_path_factory.mktemp("seeds")
    (folder / "hand.ptx").write_bytes((REPO / "tests/simulator/seeds.ptx").read_bytes())
    library = load_extension("simulator").read_bytes()
    for file, ptx in enumerate(re.findall(rb"\.version [^\0]*", library)):
        head, *kernels = re.split(rb"(?m)^(?=\t?\.visible \.entry)", ptx)
        for i, kernel in enumerate(kernels):
            (folder / f"kernels_{file}_{i}.ptx").write_bytes(head + kernel)
    for family in FAMILIES:
        forms = [c.form for c in cases(family) if isinstance(c, FormCase)]
        for first in range(0, len(forms), PER_SEED):
            text = module_of(forms[first : first + PER_SEED])
            (folder / f"{family}_{first}.ptx").write_text(text)
    small = REPO / "tests/programs/histogram.cu"
    nvcc = str(tools.find_toolkit().nvcc)
    plain = [nvcc, "-std=c++20", "--no-compress", "-fatbin", str(small)]
    # nvcc crashes with a sanitizer's library, which `simulator.sanitize` loads into everything
    variables = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    for name, code in {"one": ["90a"], "two": ["80", "90a"]}.items():
        which = [f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in code]
        command = [*plain, *which, "-o", str(folder / f"{name}.fatbin")]
        subprocess.run(command, check=True, env=variables)
    return folder


def module_of(forms: list[Form]) -> str:
    """A kernel that executes some forms, one after the other."""
    lines = [".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry forms() {"]
    lines.append(".reg .pred run; setp.eq.u32 run, 0, 0;")
    for form in forms:
        lines.append("{")
        text = ";\n".join(form.statements)
        for k, o in reversed(list(enumerate((*form.outs, *form.ins)))):
            text = re.sub(rf"%{k}\b", f"v{k}", text)
            if o.type == "pred":
                lines.append(f".reg .pred v{k}; setp.ne.u32 v{k}, {k}, 1;")
            else:
                lines.append(f".reg .b{o.register} v{k}; mov.b{o.register} v{k}, {k + 1};")
        lines.append(text + ";\n}")
    return "\n".join([*lines, "ret;\n}\n"])


def run_fuzz(library: Path, *arguments: object) -> tuple[list[str], str]:
    """The lines that fuzz.py prints, and how it failed or ""."""
    command = [sys.executable, fuzz.__file__, str(library), *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode().splitlines(), f"ran for {SECONDS} seconds"
    how = f"ended with status {done.returncode}\n{done.stderr[-4000:]}" if done.returncode else ""
    return done.stdout.splitlines(), how


def run_cases(library: Path, seeds: Path, first: int, count: int) -> list[str]:
    """The answers to some cases; fails if the process does not complete them."""
    lines, how = run_fuzz(library, seeds, first, count)
    if how:
        case = int(lines[-1].split()[0])
        pytest.fail(f"case {case}: the process {how}\nkept as {kept(library, seeds, case)}")
    assert len(lines) == count
    return lines


def kept(library: Path, seeds: Path, case: int) -> Path:
    """A file with the module of a failing case, without the lines that it also fails without."""
    images = [path.read_bytes() for path in sorted(seeds.iterdir())]
    pool = Pool.of([image for image in images if fuzz.is_text(image)])
    folder = cache_dir() / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"case_{case}.ptx"
    lines = fuzz.broken(images, pool, case).split(b"\n")
    tries, size = 0, len(lines) // 2
    while size and tries < TRIES:
        first = 0
        while first < len(lines) and tries < TRIES:
            fewer = lines[:first] + lines[first + size :]
            path.write_bytes(b"\n".join(fewer))
            tries += 1
            if run_fuzz(library, path)[1]:
                lines = fewer
            else:
                first += size
        size //= 2
    path.write_bytes(b"\n".join(lines))
    return path


def test_sound_modules_run(seeds: Path):
    """The seeds themselves are valid: their only obstacle is the end of their memory."""
    image = fuzz.Guarded(1 << 20)
    try_module = simulator.library().wbsim_try_module
    try_module.restype, try_module.argtypes = ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_size_t]
    for path in sorted(seeds.iterdir()):
        data = path.read_bytes()
        answer = try_module(image.put(data), len(data))
        text = (answer or b"").decode()
        assert "PTX line" not in text, f"{path.name}: {text}"


def run_all(library: Path, seeds: Path, count: int) -> None:
    """Some are refused, and some still run."""
    starts = range(0, count, BATCH)
    answers = [line for i in starts for line in run_cases(library, seeds, i, min(BATCH, count - i))]
    errors = sum("PTX line" in line for line in answers)
    assert 0.1 < errors / count < 0.8


def test_broken_modules(seeds: Path, pytestconfig: pytest.Config):
    count = 10_000 if pytestconfig.getoption("--full") else 300
    run_all(process_simulator().library, seeds, count)


@pytest.mark.full
def test_broken_modules_with_sanitizers(seeds: Path, monkeypatch: pytest.MonkeyPatch):
    if fuzz.SANITIZED:
        pytest.skip("the other test does")
    library = sanitize.build(sanitize.DEFAULT)
    for name, value in sanitize.environment(sanitize.DEFAULT).items():
        monkeypatch.setenv(name, value)
    run_all(library, seeds, 10_000)
