"""Broken PTX and fat binaries: an error each, and never a crash, a hang or excessive memory."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import pytest

import simulator
from simulator.conformance import FAMILIES, cases
from simulator.conformance.micro import Form, FormCase
from tests.simulator import fuzz
from tests.support import REPO
from workbench.toolchain import load_extension, tools
from workbench.toolchain.simulator import process_simulator

PER_SEED = 40  # forms
BATCH = 100
SECONDS = 60  # for a batch


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
    for name, code in {"one": ["90a"], "two": ["80", "90a"]}.items():
        which = [f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in code]
        subprocess.run([*plain, *which, "-o", str(folder / f"{name}.fatbin")], check=True)
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


def run_cases(seeds: Path, first: int, count: int) -> list[str]:
    """The answers to some cases; fails if the process does not complete them."""
    library = str(process_simulator().library)
    command = [sys.executable, fuzz.__file__, library, str(seeds), str(first), str(count)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        output, how = done.stdout, f"ended with status {done.returncode}"
    except subprocess.TimeoutExpired as late:
        output, how, done = (late.stdout or b"").decode(), f"ran for {SECONDS} seconds", None
    lines = output.splitlines()
    if done is None or done.returncode:
        case = lines[-1].split()[0] if lines else "none"
        pytest.fail(f"case {case}: the process {how}\n{done.stderr[-2000:] if done else ''}")
    assert len(lines) == count
    return lines


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


def test_broken_modules(seeds: Path, pytestconfig: pytest.Config):
    count = 10_000 if pytestconfig.getoption("--full") else 300
    answers = [line for first in range(0, count, BATCH) for line in run_cases(seeds, first, BATCH)]
    errors = sum("PTX line" in line for line in answers)
    assert 0.1 < errors / count < 0.95  # some are refused, some still run
