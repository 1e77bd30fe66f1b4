"""``--check`` and ``check=``: the checks in scripts, functions and programs."""

import re

import pytest
import torch

import simulator
from build import inline
from simulator.checks import CHECKS, check_names
from tests.support import finished, python
from workbench import (
    attention,
    log_softmax,
    matmul,
    softmax,
    softmax_backward,
)
from workbench.cli.main import main
from workbench.operators import builds

RACE = """
__global__ void reverse_kernel(int* out, const int* in) {
  __shared__ int tile[64];
  tile[63 - threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  int value = tile[threadIdx.x];   // another warp may have written it
  tile[63 - threadIdx.x] = value;  // already
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}
"""
LAUNCHER = """
void reverse(int* out, const int* in) { reverse_kernel<<<1, 64>>>(out, in); }
"""
MAIN = """
#include <cstdio>
int main() {
  int numbers[64], *x;
  for (int i = 0; i < 64; i++) numbers[i] = i;
  cudaMalloc(&x, sizeof numbers);
  cudaMemcpy(x, numbers, sizeof numbers, cudaMemcpyHostToDevice);
  reverse_kernel<<<1, 64>>>(x, x);
  const cudaError_t error = cudaDeviceSynchronize();
  printf("%s %s", cudaGetErrorName(error), cudaGetErrorName(cudaFree(x)));
  return error == cudaErrorLaunchFailure ? 3 : 0;
}
"""
RACE_LINES = (6, 7)  # of RACE: the read, the write


def active() -> str:
    return simulator.library().wbsim_get(b"checks").decode()


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("all", CHECKS),
        (["all"], CHECKS),
        ("racecheck", ("memcheck", "racecheck")),
        ("synccheck, racecheck", ("memcheck", "racecheck", "synccheck")),
        (("initcheck",), ("memcheck", "initcheck")),
        ((), ("memcheck",)),
    ],
)
def test_names(asked, names) -> None:
    assert check_names(asked) == names


@pytest.mark.parametrize("asked", ["", "race", "all,race", ["racecheck", "x"], True, 3, [None]])
def test_other_names_are_refused(asked) -> None:
    with pytest.raises(ValueError, match="--check is .*; expected 'all', or some of memcheck, "):
        check_names(asked, "--check")


def test_settings_take_a_word_or_names() -> None:
    for checks in ("all", ["all"], CHECKS):
        with simulator.settings(checks=checks):
            assert active() == ",".join(CHECKS)


def test_the_tests_run_with_the_checks_that_are_asked_for(pytestconfig: pytest.Config) -> None:
    assert active() == ",".join(check_names(pytestconfig.getoption("--check")))


FUNCTIONS = {
    "matmul": lambda x, **k: matmul(x, x, **k),
    "softmax": lambda x, **k: softmax(x, **k),
    "log_softmax": lambda x, **k: log_softmax(x, **k),
    "softmax_backward": lambda x, **k: softmax_backward(x, x, **k),
    "attention": lambda x, **k: attention(x, x, x, **k),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_take_checks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, x = FUNCTIONS[name], torch.ones(32, 32)
    before, seen = active(), []
    checking = simulator.checking

    def noted(checks: object):
        seen.append(checks)
        return checking(checks)

    monkeypatch.setattr(simulator, "checking", noted)
    assert torch.equal(call(x, check=["racecheck"]), call(x))
    assert seen == [("memcheck", "racecheck")]
    assert active() == before
    with pytest.raises(ValueError, match=rf"^{name}: check is 'race'; expected 'all', or some of"):
        call(x, check="race")
    with pytest.raises(ValueError, match=f"^{name}: check is 'all', but . ?.* is on meta; .*CPU"):
        call(x.to("meta"), check="all")


@pytest.fixture(scope="module")
def checked() -> object:
    return inline(RACE + LAUNCHER, "reverse", check="racecheck").reverse


def test_inline_kernels_take_checks(checked) -> None:
    numbers, out = torch.arange(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    with simulator.settings(checks="memcheck"):
        inline(RACE + LAUNCHER, "reverse", target="simulator").reverse(out, numbers)
        with pytest.raises(simulator.SimulatorError) as caught:
            checked(out, numbers)
        assert active() == "memcheck"
    error = caught.value
    assert (error.kind, error.line, error.other_line) == ("racecheck", *RACE_LINES), error


def test_inline_refuses_what_it_cannot_check() -> None:
    with pytest.raises(ValueError, match="check is 'all' and target is 'gpu'.*on the simulator"):
        inline(RACE + LAUNCHER, "reverse", target="gpu", check="all")
    with pytest.raises(ValueError, match="check is 'race'; expected 'all', or some of"):
        inline(RACE + LAUNCHER, "reverse", check="race")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--check=race"], "--check is 'race'; expected 'all', or some of memcheck, racecheck"),
        (["--check", "--target", "gpu"], "--check runs on the simulator: omit --target gpu"),
        (["--check", "--explain", "naive"], "omit --check"),
    ],
)
def test_a_script_refuses_what_it_cannot_check(flags, message, capsys) -> None:
    assert main("matmul", flags) == 2
    assert message in capsys.readouterr().err


def test_a_script_reports_what_the_checks_find(capsys, monkeypatch) -> None:
    """A kernel with a race instead of one rung's; the other is right."""
    racing = inline(RACE + LAUNCHER, "reverse", target="simulator").reverse
    launch = builds.launch
    numbers, out = torch.arange(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)

    def with_a_race(target, op, tensors, options, kernel, called=""):
        if kernel == "tiled":
            racing(out, numbers)
        else:
            launch(target, op, tensors, options, kernel, called)

    monkeypatch.setattr(builds, "launch", with_a_race)
    before = active()
    command = ["--check", "--kernel", "tiled", "naive", "--shape", "M=7,N=7,K=7"]
    with simulator.settings(checks="memcheck"):
        assert main("matmul", command) == 1
        assert active() == "memcheck"
    assert active() == before
    printed = capsys.readouterr().out
    assert "checks: memcheck, racecheck, initcheck, synccheck" in printed
    assert re.search("^tiled +WRONG$", printed, flags=re.MULTILINE)
    assert re.search(r"^naive .*\d", printed, flags=re.MULTILINE)
    report = printed.partition("WRONG  matmul tiled on the simulator")[2]
    assert "raised SimulatorError: racecheck: " in report
    assert all(f":{line}" in report for line in RACE_LINES)  # both sides


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program with a race, compiled once."""
    file = tmp_path_factory.mktemp("program") / "race.cu"
    file.write_text(RACE + MAIN)
    return str(file)


@pytest.mark.parametrize("flag", ["--check", "--check=racecheck,initcheck"])
def test_a_program_with_a_race_fails(flag: str, program: str) -> None:
    status, out, err = finished(python("build.py", "run", flag, program), 120)
    assert (status, out) == (3, "cudaErrorLaunchFailure cudaErrorLaunchFailure"), err
    assert "racecheck: " in err and all(f"race.cu:{line}" in err for line in RACE_LINES)


def test_a_program_is_checked_for_what_is_asked_alone(program: str) -> None:
    memcheck = python("build.py", "run", "--check", "memcheck", program)
    assert finished(memcheck, 120)[0] != 0  # memcheck is taken for a file: NAMES must follow =
    silent = python("build.py", "run", "--check=memcheck", program)
    assert finished(silent, 120)[:2] == (0, "cudaSuccess cudaSuccess")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--check=race"], "--check is 'race'; expected 'all', or some of"),
        (["--target", "gpu", "--check"], "--check runs on the simulator: omit --target gpu"),
    ],
)
def test_a_program_refuses_what_it_cannot_check(flags, message) -> None:
    status, out, err = finished(python("build.py", "run", *flags, "program.cu"))
    assert (status, out) == (2, "") and message in err
