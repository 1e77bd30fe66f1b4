"""`build.py run`: standalone programs, compiled unmodified and run on the simulator."""

from __future__ import annotations

import os
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import pytest

from tests.support import finished, python
from workbench.toolchain import programs, unsupported
from workbench.toolchain.errors import UsageError


def run(*words: str | Path, **environment: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of `python build.py run --target simulator ...`."""
    command = ["build.py", "run", "--target", "simulator", *map(str, words)]
    return finished(python(*command, **environment), 120)


def source(folder: Path, text: str, name: str = "program.cu") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    """One program for many tests: its first argument selects what it does."""
    return source(
        tmp_path_factory.mktemp("run"),
        """
        #include <csignal>
        #include <cstdio>
        #include <cstdlib>
        #include <cstring>
        #include <unistd.h>
        __managed__ int shared_with_host = 40;
        __global__ void read(int* x, int i) { x[0] = x[i] + shared_with_host; }
        __global__ void endless(volatile int* x) { while (x[0] == 0) {} }
        int main(int argc, char** argv) {
          int* x;
          cudaMalloc(&x, 40);
          if (!strcmp(argv[1], "arguments")) {
            for (int i = 1; i < argc; i++) printf("<%s>", argv[i]);
            fprintf(stderr, "to stderr\\n");
            return 42;
          }
          if (!strcmp(argv[1], "abort")) abort();
          if (!strcmp(argv[1], "managed")) {
            shared_with_host += 2;
            cudaMemset(x, 0, 40);
            read<<<1, 1>>>(x, 1);
            int got = 0;
            cudaMemcpy(&got, x, 4, cudaMemcpyDeviceToHost);
            printf("%d\\n", got);
          }
          if (!strcmp(argv[1], "beyond")) {
            read<<<1, 1>>>(x, 10);
            for (cudaError_t e : {cudaDeviceSynchronize(), cudaGetLastError(), cudaGetLastError(),
                                  cudaMemset(x, 0, 4), cudaFree(x)})
              printf("%s ", cudaGetErrorName(e));
            printf("%s", cudaGetErrorName(cudaDeviceReset()));
            return 7;
          }
          if (!strcmp(argv[1], "null")) read<<<1, 1>>>(nullptr, 0);
          if (!strcmp(argv[1], "host")) read<<<1, 1>>>((int*)&x, 0);
          if (!strcmp(argv[1], "endless")) {
            printf("running\\n");
            fflush(stdout);
            cudaMemset(x, 0, 40);
            endless<<<1, 32>>>(x);
            printf("%s", cudaGetErrorName(cudaDeviceSynchronize()));
          }
        }
        """,
    )


def test_arguments_output_and_exit_status_are_the_programs_own(several: Path) -> None:
    status, out, err = run(several, "-O2", "-std=c++20", "--", "arguments", "a b", "--check")
    assert (status, out) == (42, "<arguments><a b><--check>")
    assert err.endswith("to stderr\n")


def test_a_signal_ends_it_as_a_shell_shows_it(several: Path) -> None:
    command = f"python build.py run --target simulator {several} -O2 -std=c++20 -- abort"
    done = subprocess.run(["sh", "-c", f"{command}; echo $?"], capture_output=True, text=True)
    assert done.stdout == f"{128 + signal.SIGABRT}\n"


def test_managed_variables(several: Path) -> None:
    assert run(several, "-O2", "-std=c++20", "--", "managed")[:2] == (0, "42\n")


def test_a_finding_is_printed_once_and_its_error_stays(several: Path) -> None:
    status, out, err = run(several, "-O2", "-std=c++20", "--", "beyond")
    assert status == 7
    assert out.split() == ["cudaErrorIllegalAddress"] * 5 + ["cudaSuccess"]
    assert err.count("simulator: memcheck: out-of-bounds read of 4 bytes") == 1
    assert "x[0] = x[i] + shared_with_host;" in err  # its line


@pytest.mark.parametrize(
    ("pointer", "says"), [("null", "a null pointer"), ("host", "is it a host pointer?")]
)
def test_a_pointer_that_is_none_of_the_device(several: Path, pointer: str, says: str) -> None:
    status, _, err = run(several, "-O2", "-std=c++20", "--", pointer)
    assert status == 0 and says in err, err


def test_arguments_that_make_no_sense_are_errors_and_no_crash(tmp_path: Path) -> None:
    calls = """
        cudaLaunchKernel((void*)k, 1, dim3(2147549185, 4294836226, 2), args, 0, 0)
        cudaLaunchKernel((void*)k, 1, 1, no_args, 0, 0)
        cudaLaunchKernelExC(&config, (void*)k, args)
        cudaGraphAddDependencies(graph, nullptr, nullptr, nullptr, 4)
        cudaGraphRemoveDependencies(graph, nullptr, nullptr, nullptr, 4)
        cudaStreamBeginCaptureToGraph(s, graph, nullptr, nullptr, 3, cudaStreamCaptureModeRelaxed)
        cudaThreadExchangeStreamCaptureMode(&no_mode)
        cudaSetValidDevices(nullptr, 3)
        cudaHostRegister(graph, ~0ull, 0)
    """.split("\n")[1:-1]
    program = """
        #include <cstdio>
        __global__ void k(int* x) { *x = 1; }
        int main() {
          int* x = nullptr;
          void *args[] = {&x}, *no_args[] = {nullptr};
          cudaLaunchConfig_t config = {};
          config.gridDim = config.blockDim = 1;
          config.numAttrs = 1;
          auto no_mode = cudaStreamCaptureMode(9);
          cudaStream_t s;
          cudaGraph_t graph;
          cudaStreamCreate(&s);
          cudaGraphCreate(&graph, 0);
        CALLS
        }
        """.replace("CALLS", "".join(f'printf("%d ", {call.strip()} != 0);\n' for call in calls))
    assert run(source(tmp_path, program))[:2] == (0, "1 " * len(calls))


def test_settings_of_the_environment(several: Path) -> None:
    words = (several, "-O2", "-std=c++20", "--", "endless")
    status, out, err = run(*words, WORKBENCH_SIMULATOR="instruction_limit=100000 threads=1")
    assert out == "running\ncudaErrorLaunchTimeout"
    assert "limit" in err
    status, _, err = run(*words, WORKBENCH_SIMULATOR="order=sideways")
    assert status == 2
    assert "order: expected ascending, descending or random, got 'sideways'" in err
    assert run(*words, WORKBENCH_SIMULATOR="order")[0] == 2


def test_ctrl_c_goes_to_the_program(several: Path) -> None:
    child = python(
        *("build.py", "run", "--target", "simulator", str(several), "-O2", "-std=c++20"),
        *("--", "endless"),
        WORKBENCH_SIMULATOR=f"instruction_limit={10**15}",
    )
    try:
        assert child.stdout.readline() == "running\n"
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=10) == -signal.SIGINT
    finally:
        child.kill()
        child.communicate()


def test_a_program_is_built_once_and_again_when_a_header_changes(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    header = tmp_path / "include" / "answer.h"
    header.write_text("#define ANSWER 1\n")
    main = source(tmp_path, '#include "answer.h"\nint other();\nint main() { return other(); }\n')
    other = source(tmp_path, '#include "answer.h"\nint other() { return ANSWER; }\n', "other.cpp")
    words = (main, other, "-I", tmp_path / "include", "-arch=sm_70", "-lcudart")
    first = run(*words)
    assert first[0] == 1 and "built program.cu" in first[2], first
    assert run(*words) == (1, "", "")
    header.write_text("#define ANSWER 2\n")
    assert run(*words)[0] == 2


def test_an_error_of_the_compiler_is_shown(tmp_path: Path) -> None:
    wrong = source(tmp_path, "__global__ void k() { undeclared = 1; }\nint main() {}\n")
    status, out, err = run(wrong)
    assert (status, out) == (1, "")
    assert 'program.cu:1: error: identifier "undeclared" is undefined' in err
    assert "Traceback" not in err


def test_what_is_not_supported_is_named(tmp_path: Path) -> None:
    calls = source(
        tmp_path,
        """
        struct cublasContext;
        extern "C" int cublasCreate_v2(cublasContext**);
        int main() {
          cudaTextureObject_t t;
          cudaDestroyTextureObject(t);
          cudaArray_t a;
          cudaFreeArray(a);
          return cublasCreate_v2(nullptr);
        }
        """,
    )
    status, _, err = run(calls, "-lcublas")
    assert status == 1
    lines = err.splitlines()
    assert "not supported on the simulator: cublas (cublasCreate_v2)" in lines
    assert "not supported on the simulator: textures (cudaDestroyTextureObject)" in lines
    assert "not supported on the simulator: CUDA arrays (cudaFreeArray)" in lines
    assert "undefined reference" not in err
    header = source(
        tmp_path, "#include <cudnn_that_no_toolkit_has.h>\nint main() {}\n", "header.cu"
    )
    assert "not supported on the simulator: cudnn" in run(header)[2]
    nested = source(
        tmp_path,
        "__global__ void child() {}\n__global__ void k() { child<<<1, 1>>>(); }\nint main() {}\n",
        "nested.cu",
    )
    status, _, err = run(nested, "-rdc=true", "-lcudadevrt")
    assert (status, "dynamic parallelism" in err, "error:" in err) == (1, True, False)


def test_what_the_programs_own_code_lacks_is_not_called_unsupported() -> None:
    log = "ld: a.o: undefined reference to `mine()'\nld: undefined reference to `cudaMalloc2D'\n"
    assert unsupported.link_error(log) is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "which program"),
        (["nowhere.cu"], "there is no .*nowhere.cu"),
        (["a.cu", "-c"], "compiled, linked and run"),
        (["a.cu", "b.cu", "-rdc=true"], "separate compilation"),
        (["a.cu", "b.cu", "-rdc", "true"], "separate compilation"),
        (["a.cu", "5"], "there is no 5; .* after --"),
        (["a.cu", "-I"], "-I needs a value"),
    ],
)
def test_command_lines_that_make_no_sense(words: list[str], says: str, tmp_path: Path) -> None:
    for name in ("a.cu", "b.cu"):
        (tmp_path / name).write_text("int main() {}\n")
    words = [str(tmp_path / w) if w in ("a.cu", "b.cu") else w for w in words]
    with pytest.raises(UsageError, match=says):
        programs.parse(words, "simulator")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (b"caf\xe9", "bytes in its name that nvcc does not take"),
        (b"a$b", "has . in its path, at which nvcc breaks"),
        (b'a"b', "has . in its path, at which nvcc breaks"),
        (b"x" * 240, "has a name of 243 bytes"),
    ],
)
def test_names_that_nvcc_does_not_take(name: bytes, says: str, tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b".cu"))
    file.write_text("int main() {}\n")
    with pytest.raises(UsageError, match=says):
        programs.parse([str(file)], "simulator")


def test_flags_are_sorted_as_nvcc_reads_them(tmp_path: Path) -> None:
    a = source(tmp_path, "int main() {}\n", "a.cu")
    line = (
        f"{a} -O3 -gencode arch=compute_80,code=sm_80 -I inc -DX=1 -D Y -lm -lcublas -L {tmp_path}"
    )
    program = programs.parse(line.split(), "simulator")
    assert program.sources == (a,)
    assert program.compile_flags == ("-O3", "-I", str(Path("inc").resolve()), "-DX=1", "-D", "Y")
    assert program.libraries == ("-lm", f"-L{tmp_path}")
    on_gpu = programs.parse(line.split(), "gpu")
    assert "-gencode" in on_gpu.compile_flags and "-lcublas" in on_gpu.libraries


def test_flags_whose_value_is_the_next_word_and_flags_that_look_like_a_library(
    tmp_path: Path,
) -> None:
    a = source(tmp_path, "int main() {}\n", "a.cu")
    line = f"-t 4 -rdc true -lineinfo {a} -fmad false --include-path inc -include config.h"
    program = programs.parse(line.split(), "simulator")
    assert (program.sources, program.libraries) == ((a,), ())
    inc = Path("inc").resolve()
    assert program.include_dirs == (inc,)
    flags = f"-t 4 -lineinfo -fmad false -I {inc} -include config.h"
    assert " ".join(program.compile_flags) == flags


@pytest.mark.full
def test_nvccs_usual_flags(several: Path) -> None:
    words = "-O3 -lineinfo -g -t 2 --use_fast_math -Xptxas -v -Xcompiler -Wall -arch sm_80".split()
    assert run(several, *words, "-std=c++20", "--", "managed")[:2] == (0, "42\n")
    assert run(several, "-G", "--", "managed")[:2] == (0, "42\n")
