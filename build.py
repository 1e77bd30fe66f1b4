"""Compiles the kernels.

In essence this is one call:

    torch.utils.cpp_extension.load(
        name="workbench_simulator",
        sources=["bindings.cpp", "bindings/launch.cpp", "bindings/matmul.cpp", ...,
                 "kernels/matmul.cu", ...],
        extra_include_paths=[".", "kernels"],
        extra_cuda_cflags=["-gencode", "arch=compute_90a,code=compute_90a"],
        extra_ldflags=["-Wl,-Bsymbolic", ...],  # the simulator instead of libcudart
    )

The GPU target compiles machine code for the installed GPU, the simulator target PTX. Everything
else it takes (finding a compiler, locks, caches, error messages) is in workbench/toolchain/:

    tools         finds nvcc (CUDA_HOME, PATH, /usr/local/cuda, the wheels), g++, ninja
    toolkit       gives PyTorch a CUDA_HOME with just what load() needs
    fingerprints  rebuilds what changed in content: every header, flag and tool counts
    locks         one build at a time; never waits for a dead process
    diagnostics   an error or warning as file:line, the source line, a caret and a hint
    host_calls    refuses kernels that call functions of the host
    simulator     builds the simulator's library
    extension     the call above
    inline        kernels from strings, whose launchers Python calls
    programs      standalone programs: nvcc's command line, the simulator's runtime

Use:
    python build.py [--target gpu|simulator]   build, and print the library's path
    python build.py doctor                     what is installed, what will be used, and why
    python build.py run [--target gpu|simulator] [--check[=NAMES]] PROGRAM.cu [nvcc flags]
                        [-- ARGUMENTS]
                                               compile and run a standalone program
"""

from __future__ import annotations

import workbench.interrupted  # noqa: F401 first: it is for the imports

# isort: split

import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from simulator.checks import CHECKS, check_names
from workbench import toolchain
from workbench.toolchain import command
from workbench.toolchain.errors import UsageError


def load_kernels(target: str | None = None) -> ModuleType:
    """Build the kernels unless they are up to date, and return the package of the operators.

    target: "gpu" or "simulator"; None selects the GPU if there is one.
    Raises BuildError, whose text is only the compiler's error.
    """
    import workbench
    from workbench.operators import builds

    builds.refresh(target or toolchain.default_target())
    return workbench


def inline(
    cuda_source: str | None = None,
    functions: str | Sequence[str] | dict[str, str] | None = None,
    *,
    target: str | None = None,
    check: str | Sequence[str] | None = None,
    **load_inline_arguments: Any,
) -> ModuleType:
    """Compile a kernel from a string; a module with a function for each of `functions`.

    cuda_source: plain CUDA; `functions` are host functions in it that launch the kernels. They take
        pointers (given tensors), numbers and at most one cudaStream_t (given PyTorch's stream):

            saxpy = inline(source, "saxpy").saxpy   # void saxpy(float* y, const float* x, float a,
            saxpy(y, x, 2.0, y.numel())             #            int n, cudaStream_t stream)

    Besides, saxpy.check(...), saxpy.time(...) and saxpy.explain(...) take the same arguments, run
    on copies of the tensors, and return what a REPL prints and a notebook shows.

    target: "gpu" or "simulator"; None selects the GPU if there is one.
    check: the simulator's checks for every call: "all", or names such as ["racecheck"].
    load_inline_arguments: those of torch.utils.cpp_extension.load_inline: cpp_sources,
    extra_cuda_cflags, ... A source may include PyTorch's headers, take and return torch::Tensor,
    and have a PYBIND11_MODULE instead of `functions`.
    Raises BuildError, and the errors listed in workbench/toolchain/inline/.
    """
    from workbench import interactive

    options = {"target": target, "check": check, **load_inline_arguments}
    return interactive.inline(cuda_source, functions, **options)


def load(
    name: str,
    sources: Sequence[str | os.PathLike[str]],
    functions: str | Sequence[str] | dict[str, str] | None = None,
    *,
    target: str | None = None,
    check: str | Sequence[str] | None = None,
    **load_arguments: Any,
) -> ModuleType:
    """Compile .cu and .cpp files of your own, like torch.utils.cpp_extension.load; a module.

    name: the module's name, and that of its PYBIND11_MODULE, which may be TORCH_EXTENSION_NAME.
    sources: the files. Those in CUDA are compiled as one, and so are those in C++.
    functions, target, check, load_arguments: as for `inline`.
    """
    from workbench import interactive

    options = {"target": target, "check": check, **load_arguments}
    return interactive.load(name, sources, functions, **options)


def run(words: Sequence[str]) -> int:
    """`build.py run`: compile a standalone program and become it, with its exit status."""
    from workbench.toolchain import programs

    words, arguments = list(words), []
    if "--" in words:
        at = words.index("--")
        words, arguments = words[:at], words[at + 1 :]
    parser = command.Parser(
        prog="build.py run",
        usage="build.py run [--target gpu|simulator] [--check[=NAMES]] PROGRAM.cu [nvcc flags] "
        "[-- ARGUMENTS]",
        description="Compile an unmodified CUDA program and run it.",
        allow_abbrev=False,
    )
    parser.add_argument("--target", choices=["gpu", "simulator"])
    parser.add_argument(
        "--check",
        action="append",
        metavar="=NAMES",
        help="look for races and the like on the simulator; all, or some of " + ",".join(CHECKS),
    )
    # without a value it means all: the next word is the program
    words = ["--check=all" if word == "--check" else word for word in words]
    options, nvcc_words = parser.parse_known_args(words)
    target = options.target
    checks: tuple[str, ...] = ()
    if options.check:
        if target == "gpu":
            parser.error("--check runs on the simulator: omit --target gpu")
        target = "simulator"
        try:
            checks = check_names(",".join(options.check), "--check")
        except ValueError as error:
            parser.error(str(error))
    target = target or programs.default_target()
    programs.run_program(programs.parse(nvcc_words, target), arguments, checks)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["run"]:
        return run(argv[1:])
    parser = command.Parser(
        description="Build the kernels, explain the tools (doctor), or run a CUDA program (run).",
        epilog="build.py run --help explains how to run a .cu file of your own.",
    )
    parser.add_argument("command", nargs="?", choices=["build", "doctor", "run"], default="build")
    parser.add_argument("--target", choices=["gpu", "simulator"])
    arguments = parser.parse_args(argv)
    if arguments.command == "run":
        raise UsageError("run comes first: build.py run --help explains it")
    if arguments.command == "doctor":
        from workbench.toolchain.doctor import doctor

        return doctor()
    import workbench.installed  # noqa: F401 says what to do if PyTorch is missing

    target = arguments.target or toolchain.default_target()
    print(toolchain.load_extension(target))
    return 0


if __name__ == "__main__":
    command.run(main)
