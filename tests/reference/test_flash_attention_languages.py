"""Flash attention in C and in Rust, as programs: against formulas, flash_2 and each other."""

from __future__ import annotations

import math
import os
import resource
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from reference.attention import flash_2
from workbench.toolchain import REPO

IN_C = REPO / "reference" / "flash_attention.c"
IN_RUST = REPO / "reference" / "flash_attention.rs"
C = ["cc", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-std=c11", "-ffp-contract=off"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COMMANDS = {
    "c": [*C, IN_C, "-lm"],
    "c_sanitized": [*C, "-O1", *SANITIZERS, IN_C, "-lm"],
    "rust": ["rustc", "--edition", "2021", "-O", "-D", "warnings", IN_RUST],
}
FILLED = os.environ | {  # memory of the sanitized program begins as NaN
    "ASAN_OPTIONS": "malloc_fill_byte=255:max_malloc_fill_size=1048576"
}
NEEDED = {
    "cc": "needs cc (Debian: apt install gcc)",
    "rustc": "needs rustc (Debian: apt install rustc)",
}

SHAPES = {  # H, Nq, Nk, D, Dv; tiles are 32 x 32
    "ragged": (2, 37, 70, 17, 5),
    "whole tiles": (1, 64, 96, 32, 32),
    "one less, one more": (3, 31, 33, 8, 8),
    "fewer queries": (2, 13, 45, 16, 24),
    "more queries": (2, 75, 33, 8, 16),
    "one of each": (1, 1, 1, 1, 1),
    "one query": (1, 1, 67, 4, 6),
    "one key": (1, 67, 1, 4, 6),
    "no keys": (2, 5, 0, 4, 3),
    "no queries": (2, 0, 5, 4, 3),
    "no heads": (0, 5, 6, 4, 3),
    "D = 0": (1, 5, 6, 0, 3),
    "Dv = 0": (1, 5, 6, 4, 0),
}
EPS = torch.finfo(torch.float32).eps

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Results = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The programs whose compiler is there. They compile at the same time."""
    folder = tmp_path_factory.mktemp("languages")
    started = {
        name: subprocess.Popen([*command, "-o", folder / name], stderr=subprocess.PIPE, text=True)
        for name, command in COMMANDS.items()
        if shutil.which(command[0])
    }
    messages = {name: compiler.communicate()[1] for name, compiler in started.items()}
    for name, compiler in started.items():
        assert compiler.returncode == 0, messages[name]
    return {name: folder / name for name in started}


def require(built: dict[str, Path], name: str) -> Path:
    if name not in built:
        pytest.skip(NEEDED[COMMANDS[name][0]])
    return built[name]


@pytest.fixture(params=COMMANDS)
def program(request, built) -> Path:
    return require(built, request.param)


@pytest.fixture(params=["c", "rust"])
def plain(request, built) -> Path:
    """A program without sanitizers."""
    return require(built, request.param)


def run(program: Path, *arguments: Any, given: bytes = b"", **options: Any) -> Any:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 20} | options
    return subprocess.run([program, *arguments], input=given, env=FILLED, **options)


def attention(program: Path, given: Tensors, causal: bool = False, scale: float = 0.3) -> Results:
    """O [H, Nq, Dv] and LSE [H, Nq] of q [H, Nq, D], k [H, Nk, D], v [H, Nk, Dv]."""
    (h, nq, d), (_, nk, dv) = given[0].shape, given[2].shape
    arguments = map(str, (h, nq, nk, d, dv, scale, int(causal)))
    done = run(
        program, *arguments, given=b"".join(x.numpy().astype("<f4").tobytes() for x in given)
    )
    assert (done.returncode, done.stderr) == (0, b"")
    numbers = torch.from_numpy(np.frombuffer(bytearray(done.stdout), "<f4"))
    out, lse = numbers.split([h * nq * dv, h * nq])
    return out.view(h, nq, dv), lse.view(h, nq)


def tensors(h: int, nq: int, nk: int, d: int, dv: int) -> Tensors:
    generator = torch.Generator().manual_seed(5)
    q, k, v = (
        torch.randn(shape, generator=generator) for shape in ((h, nq, d), (h, nk, d), (h, nk, dv))
    )
    return q, k, v


def with_scores(scores: list[float]) -> Tensors:
    """One query with D = 1 and these scores, if the scale is 1; Dv = 2."""
    return (
        torch.ones(1, 1, 1),
        torch.tensor(scores)[None, :, None],
        tensors(1, 1, len(scores), 1, 2)[2],
    )


def formula(given: Tensors, causal: bool = False, scale: float = 0.3) -> Results:
    """O and LSE in float64."""
    q, k, v = (x.double() for x in given)
    S = scale * (q @ k.mT)
    if causal:
        hidden = torch.ones(S.shape[1:], dtype=torch.bool).triu(k.shape[1] - q.shape[1] + 1)
        S = S.masked_fill(hidden, -math.inf)
    return torch.softmax(S, dim=-1).nan_to_num(0) @ v, S.logsumexp(-1)


def by_flash_2(given: Tensors, causal: bool = False, scale: float = 0.3) -> Results:
    results = [
        flash_2(*head, causal=causal, scale=scale, return_lse=True)
        for head in zip(*given, strict=True)
    ]
    out, lse = zip(*results, strict=True)
    return torch.stack(out), torch.stack(lse)


def require_close(got: Results, wanted: Results, allowed: float = 0) -> None:
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(
            one.double(), other.double(), atol=allowed, rtol=allowed and 4 * EPS, equal_nan=True
        )


# ---- Results ------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("shape", SHAPES)
def test_results(program, shape, causal):
    given = tensors(*SHAPES[shape])
    got = attention(program, given, causal)
    allowed = 4 * math.sqrt(max(given[1].shape[1:])) * EPS  # roundings have either sign
    require_close(got, formula(given, causal), allowed)
    if len(given[0]):
        require_close(got, by_flash_2(given, causal), allowed)


def test_queries_that_see_no_key(program):
    out, lse = attention(program, tensors(2, 75, 33, 8, 16), causal=True)
    assert (out[:, :42] == 0).all() and (lse[:, :42] == -math.inf).all()
    assert (out[:, 42:] != 0).all() and lse[:, 42:].isfinite().all()
    out, lse = attention(program, tensors(2, 5, 0, 4, 3))
    assert (out == 0).all() and (lse == -math.inf).all()


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_large_logits(program, causal):
    """Scores of some 10^4, integers, so that none is rounded: the weights lose nothing."""
    q, k, v = tensors(2, 50, 70, 4, 8)
    given = (60 * q).round(), (60 * k).round(), v
    assert (given[0] @ given[1].mT).abs().max() > 1e4
    got = attention(program, given, causal, scale=1)
    require_close(got, formula(given, causal, scale=1), 16 * EPS)


@pytest.mark.parametrize("scale", [0, -0.5, 1e-30, 1e4])
def test_any_finite_scale(program, scale):
    given = tensors(1, 40, 40, 1, 4)  # D = 1: scores that are rounded once
    for x in given[:2]:
        x.round_()
    require_close(attention(program, given, scale=scale), formula(given, scale=scale), 16 * EPS)


def test_both_languages_give_the_same_bits(built):
    """They add in the same order and call the same expf and logf."""
    both = [partial(attention, require(built, name)) for name in ("c", "rust")]
    for shape in SHAPES.values():
        for causal in (False, True):
            require_close(*(one(tensors(*shape), causal) for one in both))


@pytest.mark.parametrize("score", [-1e4, 1e4])
def test_logits_far_from_zero(program, score):
    """The maximum is that of the scores, and not 0: all keys have the same weight."""
    given = with_scores([score] * 40)
    require_close(attention(program, given, scale=1), formula(given, scale=1), 16 * EPS)


# ---- NaN and infinite scores --------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 31, 32, 44], ids="key {}".format)
def test_hidden_keys_do_not_matter(program, at, bad):
    """Those that see key `at` differ, the others are the same bits; 45 queries and keys."""
    given = tensors(1, 45, 45, 8, 8)
    clean = attention(program, given, causal=True)
    given[1][0, at], given[2][0, at] = bad, bad
    got = attention(program, given, causal=True)
    require_close(*((out[:, :at], lse[:, :at]) for out, lse in (got, clean)))
    assert got[0][:, at:].isnan().all()


def test_a_nan_stays_where_it_belongs(program):
    given = tensors(1, 40, 70, 8, 8)
    out, lse = attention(program, given)
    for place, nan_out, nan_lse in (
        (given[0][0, 33, :1], (slice(None), 33), (slice(None), 33)),  # q: a row
        (given[1][0, 69, :1], ..., ...),  # k: everything
        (given[2][0, 40, :1], (..., 0), slice(0)),  # v: a column of O
    ):
        kept = place.clone()
        place.fill_(math.nan)
        wanted = out.clone(), lse.clone()
        wanted[0][nan_out], wanted[1][nan_lse] = math.nan, math.nan
        require_close(attention(program, given), wanted)
        require_close(by_flash_2(given), wanted, 1e-5)
        place.copy_(kept)


@pytest.mark.parametrize("finite", [0, 1, 40])
def test_a_score_of_infinity_gives_nan_as_in_torch(program, finite):
    given = with_scores([0.5] * finite + [math.inf] + [0.5] * finite)
    assert scaled_dot_product_attention(*given, scale=1.0).isnan().all()
    got = attention(program, given, scale=1)
    assert got[0].isnan().all() and got[1].isnan().all()
    require_close(got, by_flash_2(given, scale=1))


def test_a_score_that_overflows_gives_nan(program):
    given = torch.full((1, 1, 1), 1e30), torch.full((1, 3, 1), 1e30), torch.ones(1, 3, 1)
    assert attention(program, given)[0].isnan().all()


@pytest.mark.parametrize("keys", [1, 32, 70])
def test_only_scores_of_minus_infinity_give_zero(program, keys):
    given = with_scores([-math.inf] * keys)
    given[2][0, 0] = math.nan
    out, lse = attention(program, given, scale=1)
    assert (out == 0).all() and (lse == -math.inf).all()
    require_close((out, lse), by_flash_2(given, scale=1))


@pytest.mark.parametrize("before", [1, 40])
@pytest.mark.parametrize("after", [0, 1, 40])
def test_scores_of_minus_infinity_have_no_weight(program, before, after):
    given = with_scores([-math.inf] * before + [1.0, -2.0] + [-math.inf] * after)
    q, k, v = given
    finite = q, k[:, before : before + 2].clone(), v[:, before : before + 2].clone()
    require_close(attention(program, given, scale=1), attention(program, finite, scale=1))


# ---- The command line ---------------------------------------------------------------------------

USAGE = "usage: flash_attention [demo | H NQ NK D DV SCALE CAUSAL < input > output]"
GOOD = ["1", "2", "3", "4", "5", "0.5", "1"]  # 35 numbers of input, 12 of output
NAMES = ["H", "NQ", "NK", "D", "DV"]
NO_SIZES = ["", "x", "-1", "+1", "1.5", " 1", "1 ", "0x10", "1048577", "9" * 30]
NO_SCALES = ["", "x", ".", "1e", "nan", "inf", "-infinity", "1e39", "0x1p3", " 1", "1 ", "1,5"]


def require_refusal(done: Any, message: str) -> None:
    assert done.stderr.decode(errors="replace") == f"flash_attention: expected {message}\n{USAGE}\n"
    assert (done.returncode, done.stdout) == (2, b"")


def changed(place: int, word: str | bytes) -> list[str | bytes]:
    return [*GOOD[:place], word, *GOOD[place + 1 :]]


@pytest.mark.parametrize("arguments", [["x"], ["demo", "x"], GOOD[:-1], [*GOOD, "1"]], ids=len)
def test_the_number_of_arguments(program, arguments):
    message = f"7 arguments, or demo; got {len(arguments)}"
    require_refusal(run(program, *arguments), message)


def test_sizes(program):
    for word in NO_SIZES:
        require_refusal(run(program, *changed(2, word)), f"NK, 0 .. 1048576; got '{word}'")
    for place, name in enumerate(NAMES):
        require_refusal(run(program, *changed(place, "-1")), f"{name}, 0 .. 1048576; got '-1'")


def test_scale_and_causal(program):
    for word in NO_SCALES:
        require_refusal(run(program, *changed(5, word)), f"SCALE, a finite number; got '{word}'")
    for word in ("", "2", "01", "true"):
        require_refusal(run(program, *changed(6, word)), f"CAUSAL, 0 or 1; got '{word}'")


def test_arguments_that_are_not_text(program):
    for place, expected in ((0, "H, 0 .. 1048576"), (5, "SCALE, a finite number")):
        require_refusal(run(program, *changed(place, b"1\xff")), f"{expected}; got '1\ufffd'")


MAX = str(2**20)
TOO_MANY = {  # input, output
    "q": ((MAX, "257", "0", "1", "0"), 257 * 2**20, 257 * 2**20),
    "k": (("1", "0", MAX, "257", "0"), 257 * 2**20, 0),
    "v": (("1", "0", MAX, "0", "257"), 257 * 2**20, 0),
    "O": (("1", MAX, "0", "0", "256"), 0, 257 * 2**20),
    "LSE": ((MAX, MAX, "0", "0", "0"), 0, 2**40),
    "all": ((MAX,) * 5, 3 * 2**60, 2**60 + 2**40),
}


@pytest.mark.parametrize("sizes", TOO_MANY)
def test_tensors_that_are_too_large(program, sizes):
    arguments, input, output = TOO_MANY[sizes]
    message = f"at most 268435456 numbers of input and of output; got {input} and {output}"
    require_refusal(run(program, *arguments, "1", "0"), message)


def test_the_largest_size(program):
    done = run(program, "1", MAX, "0", "0", "0", "1", "0")
    assert done.returncode == 0 and done.stdout == np.float32(-math.inf).tobytes() * 2**20


@pytest.mark.parametrize(
    ("given", "got"), [(0, "0"), (1, "0"), (139, "34"), (141, "more"), (144, "more")]
)
def test_stdin_of_another_length(program, given, got):
    message = f"35 float32 numbers on stdin; got {got}"
    require_refusal(run(program, *GOOD, given=bytes(given)), message)


def test_stdin_where_nothing_is_expected(program):
    empty = ["0", *GOOD[1:]]
    done = run(program, *empty)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    require_refusal(run(program, *empty, given=b"x"), "0 float32 numbers on stdin; got more")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["demo"], GOOD], ids=["demo", "results"])
def test_output_that_cannot_be_written(program, arguments):
    with open("/dev/full", "wb") as full:
        done = run(program, *arguments, given=bytes(140), stdout=full)
        assert done.returncode == 1 and b"No space left on device" in done.stderr
        done = run(program, *GOOD, given=bytes(1), stderr=full)
        assert (done.returncode, done.stdout) == (2, b"")


def test_memory_that_is_not_there(plain):
    limit = partial(resource.setrlimit, resource.RLIMIT_AS, (2**28, 2**28))
    for sizes in (("1", "0", MAX, "200", "0"), ("1", MAX, "0", "0", "200")):  # input, output
        done = run(plain, *sizes, "1", "0", preexec_fn=limit)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(b"flash_attention: memory")


def test_demo(program):
    done = run(program)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == run(program, "demo").stdout
    title, _, _, heading, *rows = done.stdout.decode().splitlines()
    assert title.startswith("71 queries, 70 keys") and heading.split()[:2] == ["i", "O"]
    numbers = np.array([[float(word) for word in row.split()] for row in rows])
    assert numbers[:, 0].tolist() == [0, 1, 2, 3, 32, 33, 70]
    assert (numbers[:, 1] == numbers[:, 2]).all() and (numbers[:, 3] == numbers[:, 4]).all()
