"""What compilers say: their warnings, unfinished files, and what they do not say."""

from __future__ import annotations

import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from build import inline
from tests.support import finished, python
from workbench.toolchain import BuildError, diagnostics, ptx_text, tools
from workbench.toolchain.diagnostics import build_error, warnings
from workbench.toolchain.host_calls import forbid_host_calls


def program(folder: Path, text: str, name: str = "program.cu") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def run(*words: str | Path) -> tuple[int, str, str]:
    return finished(python("build.py", "run", "--target", "simulator", *map(str, words)), 120)


# ---- Warnings ------------------------------------------------------------------------------------


def test_a_warning_is_shown_once_per_build(tmp_path: Path):
    program(tmp_path, "inline int doubled(int n) { int unused; return 2 * n; }\n", "helper.h")
    source = program(
        tmp_path,
        """\
        #include <algorithm>
        #include "helper.h"
        __global__ void k(int* x, int n) {
          if (n = 3) x[0] = 1;
        }
        int main() { return std::max(doubled(0), 0); }
        """,
    )
    status, out, err = run(source)
    assert (status, out) == (0, "")
    assert 'program.cu:4: warning: use of "=" where "==" may have been intended\n' in err
    assert "    if (n = 3) x[0] = 1;\n        ^\n" in err
    assert 'helper.h:1: warning: variable "unused" was declared but never referenced' in err
    assert err.count("(n = 3)") == 1
    assert "Remark" not in err
    assert "built program.cu" in err.splitlines()[-1]
    assert run(source) == (0, "", "")


LOG = """\
[1/2] /x/nvcc -c {path}/a.cu -o a.cuda.o
a.cu(1): warning #187-D: use of "=" where "==" may have been intended
  if (n = 3) {{}}
        ^

a.cu(2): warning #940-D: missing return statement at end of non-void function "f"
  int f() {{}}
           ^

/usr/include/c++/12/bits/stl_algo.h(7): warning #177-D: variable "x" was declared but never used

a.cu(1): warning #187-D: use of "=" where "==" may have been intended
  if (n = 3) {{}}
        ^

a.cu: In function 'int f()':
a.cu:2:10: warning: no return statement in function returning non-void [-Wreturn-type]
/opt/venv/lib/python3.11/site-packages/torch/include/c10/x.h:3:1: warning: deprecated
b.cpp:3:5: warning: unused variable 'x' [-Wunused-variable]
"""


def test_warnings_about_the_users_files_only_and_each_line_once(tmp_path: Path):
    program(tmp_path, "if (n = 3) {}\nint f() {}\n", "a.cu")
    program(tmp_path, "\n\nint x;\n", "b.cpp")
    found = [
        text.splitlines()[0].split("/")[-1]
        for text in warnings(LOG.format(path=tmp_path), tmp_path)
    ]
    assert found == [
        'a.cu:1: warning: use of "=" where "==" may have been intended',
        'a.cu:2: warning: missing return statement at end of non-void function "f"',
        "b.cpp:3: warning: unused variable 'x' [-Wunused-variable]",
    ]


def test_a_warning_is_no_error(tmp_path: Path):
    log = "FAILED: a.o\nnvcc -c a.cu\n" + LOG + "a.cu(2): error: wrong\n"
    text = str(build_error("a", log, tmp_path / "log", {}))
    assert "warning:" not in text and "a.cu:2: error: wrong" in text


def test_many_warnings_are_cut_short(tmp_path: Path):
    log = "".join(f"a.cu({i}): warning #1-D: no {i}\n\n" for i in range(1, 12))
    assert warnings(log, tmp_path)[-1] == "... and 3 more warnings"


@pytest.mark.full
def test_warnings_of_a_string(capfd, module_cache):
    kernel = "__global__ void k(int* x, int n) {\n  if (n = 3) x[0] = 1;\n}\n"
    inline(kernel + "void f(int* x) { k<<<1, 1>>>(x, 1); }\n", "f", target="simulator")
    assert 'f.cu:2: warning: use of "="' in capfd.readouterr().err


# ---- Unfinished files ----------------------------------------------------------------------------


def test_a_missing_brace_is_reported_where_its_block_begins(tmp_path: Path):
    source = program(tmp_path, "void f() {\n  if (1) {\n}\n", "a.cu")
    log = f"""\
FAILED: a.o
nvcc -c {source} -o a.o
/usr/include/stdio.h(29): error: linkage specification is not allowed
  extern "C" {{
  ^

At end of source: error: expected a "}}"
{source}(1): note #3196-D: to match this "{{"
  void f() {{
           ^

2 errors detected in the compilation of "{source}".
"""
    text = str(build_error("a", log, tmp_path / "log", {}))
    assert text.startswith(f'{source}:1: error: expected a "}}", to match this {{\n  void f() {{\n')
    assert "stdio.h" not in text


def test_a_missing_semicolon_at_the_end_is_reported_in_the_last_line(tmp_path: Path):
    source = program(tmp_path, "int x;\nstruct A {}\n\n", "a.cu")
    log = 'At end of source: error: expected a ";"\n'
    log += f'1 error detected in the compilation of "{source}".\n'
    assert str(build_error("a", log, tmp_path / "log", {})).startswith(
        f'{source}:2: error: expected a ";"\n  struct A {{}}\n'
    )


@pytest.mark.full
@pytest.mark.parametrize(
    ("end", "line", "says"),
    [
        ("void g() {\n", 3, 'expected a "}"'),
        ("namespace a {\n", 3, 'expected a "}"'),
        ("struct A { int a;\n", 3, 'expected a "}"'),
        ("struct A { int a; }\n", 3, 'expected a ";"'),
        ("int y = (3 +\n", 3, "expected an expression"),
    ],
)
def test_an_unfinished_string_is_reported_in_itself(end: str, line: int, says: str, module_cache):
    text = "__global__ void k(int* x) { x[0] = 1; }\nvoid f(int* x) { k<<<1, 1>>>(x); }\n" + end
    with pytest.raises(BuildError) as error:
        inline(text, "f", target="simulator")
    assert str(error.value).startswith(f"f.cu:{line}: error: {says}")
    assert "stdio.h" not in str(error.value)


def test_an_unclosed_kernel_before_the_launcher_is_hinted_at():
    with pytest.raises(ValueError, match="at namespace level; is a } missing?"):
        inline("__global__ void k() { if (1) {\n}\nvoid f() { k<<<1, 1>>>(); }\n", "f")


# ---- PTX that ptxas refuses ----------------------------------------------------------------------


@pytest.mark.full
def test_an_instruction_of_another_gpu_is_reported_at_its_line(tmp_path: Path):
    source = program(
        tmp_path,
        """\
        __device__ __forceinline__ void clear(unsigned a) {
          asm volatile("st.bulk.weak.shared::cta [%0], %1, 0;" ::"r"(a), "l"(64ull));
        }
        __global__ void k(int* x) {
          if (x[1] == 0) clear(1024);
          x[0] = 1;
        }
        int main() {}
        """,
    )
    status, _, err = run(source)
    assert status == 1
    first, text, *_ = err.splitlines()
    assert first.endswith(
        "program.cu:2: error: Feature 'st.bulk' requires .target sm_100 or higher"
    )
    assert "st.bulk.weak" in text
    assert "aborted" not in err


# ---- The host's functions in device code ---------------------------------------------------------

HOST_CALLS = """\
#include <algorithm>
#include <optional>
#include <string>
#include <vector>
int of_the_host(int);
__host__ __device__ int through(int n) {
  return of_the_host(n);  // wrong: no function of the device
}
__host__ __device__ int only_for_the_host(int n) { return of_the_host(n); }
__global__ void vector(int* x, int n) {
  std::vector<int> v(n);  // wrong: allocates
  x[0] = v.size();
}
__global__ void string(int* x) {
  std::string s("abc");  // wrong: may allocate
  x[0] = s.size();
}
__global__ void indirect(int* x) { x[0] = through(x[1]); }
__global__ void sort(int* x, int n) { std::sort(x, x + n); }
__global__ void optional(int* x, int n) { x[0] = std::optional<int>(n).value() + std::max(n, 3); }
int main() { return only_for_the_host(0); }
"""
WRONG = [i for i, line in enumerate(HOST_CALLS.splitlines(), 1) if "// wrong" in line]
COMMAND = "-std=c++20 --expt-relaxed-constexpr -gencode arch=compute_90a,code=compute_90a -c"


def test_calls_of_the_host_in_device_code_are_found(tmp_path: Path):
    source = program(tmp_path, HOST_CALLS)
    ptx = ptx_text.rerun(f"{tools.find_toolkit().nvcc} {COMMAND} {source} -o a.o", tmp_path, "-G")
    calls = ptx_text.host_calls(ptx)
    assert [(call.path, call.line) for call in calls] == [(str(source), i) for i in WRONG]
    assert [call.name for call in calls] == ["", "std::vector", "std::basic_string"]


@pytest.mark.full
def test_a_kernel_that_calls_the_host_is_not_built(tmp_path: Path):
    source = program(tmp_path, HOST_CALLS)
    command = f"{tools.find_toolkit().nvcc} --no-compress {COMMAND} {source} -o a.o"
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    with pytest.raises(BuildError) as error:
        forbid_host_calls(f"{command}\n{done.stdout}{done.stderr}", tmp_path / "a.o")
    text = str(error.value)
    assert "device code calls a function of the host" in text
    assert "device code calls std::vector, which needs functions of the host" in text
    assert not (tmp_path / "a.o").exists()


@pytest.mark.full
def test_std_in_a_string(module_cache):
    ends = "void f(int* x, int n) { k<<<1, 1>>>(x, n); }\n"
    head = "#include <algorithm>\n#include <vector>\n__global__ void k(int* x, int n) {\n  "
    with pytest.raises(BuildError, match=r"f.cu:4: error: device code calls std::vector"):
        inline(
            head + "std::vector<int> v(n); x[0] = v.size();\n}\n" + ends, "f", target="simulator"
        )
    inline(
        head + "std::sort(x, x + n); x[0] = std::max(n, 3);\n}\n" + ends, "f", target="simulator"
    )


def test_what_optimised_ptx_looks_like():
    body = ".visible .entry k(\n)\n{\n%s\n}\n"
    assert not ptx_text.may_call_host(body % "ret;")
    assert not ptx_text.may_call_host(body % "// begin inline asm\n\ttrap;\n// end\nret;")
    assert not ptx_text.may_call_host(body % "{\n mov.u32 %r1, {0, 1};\n}\nret;")
    assert ptx_text.may_call_host(body % "@%p1 bra $L;\nret;\n$L:\n\ttrap;")
    assert ptx_text.may_call_host(body % "mov.u32 %r1, 0;")


def test_a_full_disk_that_the_compiler_does_not_mention(tmp_path, monkeypatch):
    """Its words go to the same disk."""
    log = f"FAILED: first.cuda.o\nnvcc -c first.cu -o {tmp_path}/first.cuda.o\n"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(diagnostics.shutil, "disk_usage", lambda folder: usage._replace(free=4096))
    error = build_error("kernels", log, tmp_path / "build.log", {})
    assert f"hint: there is almost no room left in {tmp_path}" in str(error)
    monkeypatch.setattr(diagnostics.shutil, "disk_usage", lambda folder: usage._replace(free=1e9))
    error = build_error("kernels", log, tmp_path / "build.log", {})
    assert "no room" not in str(error)
