"""Tests of the simulator with the compiler's sanitizers: ``python -m simulator.sanitize``.

It builds a simulator with -fsanitize (some minutes; kept like any other) and runs pytest with it,
tests/simulator if nothing else is named. A sanitizer's report ends the process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from workbench.toolchain import command, tools
from workbench.toolchain.simulator import SANITIZERS, build_simulator

DEFAULT = "address,undefined"
# Have to be loaded before Python, with the library whose exceptions they follow.
_RUNTIMES = {
    "address": ("libasan.so", "libstdc++.so.6"),
    "thread": ("libtsan.so", "libstdc++.so.6"),
}
_SUPPRESSIONS = Path(__file__).with_name("sanitize_thread.txt")
_MEMORY_MB = 8192
_OPTIONS = {
    # Python and nvcc leak. What no malloc can provide is an error that the simulator handles, as is
    # an access to device memory by the host.
    "ASAN_OPTIONS": "handle_segv=0:detect_leaks=0:allocator_may_return_null=1:"
    f"max_allocation_size_mb=2048:hard_rss_limit_mb={_MEMORY_MB}:"
    "detect_odr_violation=0:alloc_dealloc_mismatch=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "handle_segv=0:halt_on_error=1:die_after_fork=0:"
    f"ignore_noninstrumented_modules=1:suppressions={_SUPPRESSIONS}",
}


def build(names: str) -> Path:
    """The simulator's library with these sanitizers."""
    before = os.environ.get("WORKBENCH_SANITIZE", "")
    os.environ["WORKBENCH_SANITIZE"] = names
    try:
        return build_simulator().library
    finally:
        os.environ["WORKBENCH_SANITIZE"] = before


def environment(names: str) -> dict[str, str]:
    """The variables with which a process, and its children, use a simulator with sanitizers."""
    cxx = tools.find_cxx()
    runtimes = [file for name in names.split(",") for file in _RUNTIMES.get(name, ())]
    found = [
        subprocess.run(
            [str(cxx), f"-print-file-name={runtime}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for runtime in runtimes
    ]
    threads = "threads=2 " if "thread" in names.split(",") else ""
    return {
        **os.environ,
        **_OPTIONS,
        "WORKBENCH_SANITIZE": names,
        "WORKBENCH_SIMULATOR": threads + os.environ.get("WORKBENCH_SIMULATOR", ""),
        "LD_PRELOAD": ":".join(found),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Become pytest, with sanitizers."""
    parser = command.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--with",
        dest="names",
        choices=(DEFAULT, *SANITIZERS),
        default=DEFAULT,
        help=f"the sanitizers; default: {DEFAULT}. thread runs blocks on two cores",
    )
    parser.add_argument("--full", action="store_true", help="pytest's --full")
    parser.add_argument("-k", metavar="EXPRESSION", help="pytest's -k")
    parser.add_argument("tests", nargs="*", type=_tests, help="default: tests/simulator")
    args = parser.parse_args(argv)
    # A report, on stderr, ends the process: pytest's own capture would take it along.
    words = ["--capture=sys", *(args.tests or ["tests/simulator"]), *["--full"] * args.full]
    words += ["-k", args.k] if args.k else []
    build(args.names)  # before the compilers, too, would run with the sanitizer's library
    variables = environment(args.names)
    os.execve(sys.executable, [sys.executable, "-m", "pytest", "-q", *words], variables)


def _tests(text: str) -> str:
    """A file or folder of tests, or a test in a file."""
    try:
        Path(text.partition("::")[0]).stat()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{command.shortened(text)}: {error.strerror}") from None
    return text


if __name__ == "__main__":
    command.run(main)
