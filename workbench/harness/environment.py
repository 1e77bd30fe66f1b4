"""The environment of a run: device, driver, clocks, versions, commit."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from workbench.harness.figures import of
from workbench.harness.results import Environment
from workbench.toolchain.tools import find_toolkit

SIMULATED_DEVICE = "simulator"


def _output(*command: str, folder: Path | None = None) -> str | None:
    """The output of a command; None if it is missing, fails or takes too long."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit(folder: Path) -> str | None:
    """The checked-out commit, with ``-dirty`` if tracked files differ; None outside git."""
    head = _output("git", "rev-parse", "--verify", "HEAD", folder=folder)
    if head is None:
        return None
    changed = _output("git", "status", "--porcelain", "--untracked-files=no", folder=folder)
    return f"{head}-dirty" if changed else head


def smi(field: str, device: torch.device) -> str | None:
    """An nvidia-smi field of a CUDA device, such as ``driver_version``."""
    properties = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    uuid = getattr(properties, "uuid", None)
    if uuid is not None:
        query.append(f"--id=GPU-{uuid}")
    lines = (_output(*query) or "").splitlines()
    return lines[0].strip() if lines and "N/A" not in lines[0] else None


def smi_number(field: str, device: torch.device) -> float | None:
    """An nvidia-smi field as a number; None if unknown."""
    try:
        return float(smi(field, device) or "")
    except ValueError:
        return None


def memory_bytes(target: str) -> int:
    """The total memory for a target's tensors: the GPU's or the machine's."""
    if target == "gpu":
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def command_line() -> str:
    """This process's command line, as typed; bytes that are not text appear escaped."""
    line = shlex.join(["python", os.path.basename(sys.argv[0]), *sys.argv[1:]])
    return line.encode(errors="backslashreplace").decode()


def cpu_name() -> str:
    """The CPU, and how many threads PyTorch uses: ``AMD EPYC 9R14, 2 threads``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, 'CPU')}, {of(torch.get_num_threads(), 'thread')}"


def environment(target: str, device: torch.device, folder: Path) -> Environment:
    """The environment of a run of this process; on the simulator ``cuda`` is the compiler's.

    Args:
        target: one of workbench.toolchain.TARGETS.
        device: where the tensors live.
        folder: the repository.
    """
    gpu = target == "gpu"
    names = {"gpu": lambda: torch.cuda.get_device_name(device), "cpu": cpu_name}
    return Environment(
        device=names.get(target, lambda: SIMULATED_DEVICE)(),
        driver=smi("driver_version", device) if gpu else None,
        torch=torch.__version__,
        cuda=find_toolkit().version if target == "simulator" else torch.version.cuda,
        commit=commit(folder),
        command=command_line(),
        clocks=smi("clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem", device) if gpu else None,
    )
