"""workbench.flash_attention under every mask, against the formula: list, verify or benchmark.

    python -m tests.masks list
    python -m tests.masks verify
    TESTCASE=local_stride python -m tests.masks benchmark

The cases are those of github.com/nothingstopsme/tf_flash_attention: each mask and sync_mode, for
sequences of one and of two dimensions, with its random shapes, inputs from -2 to 2 and tolerances,
1e-6 per key (float16: 1e-3). There, a window always spans the whole sequence; so do the cases here
that do not say narrow. TESTCASE is a regular expression that names of cases contain.

Tests of the functions themselves are in tests/operators/test_flash_attention.py.
"""

from __future__ import annotations

# isort: off
if __name__ == "__main__":
    import workbench.installed  # noqa: F401 first: it says what to do if the rest is missing
# isort: on

import argparse
import math
import os
import statistics
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from workbench import estimate, flash_attention
from workbench.cli.request import choose_rungs, choose_target
from workbench.harness import counters, figures, timing
from workbench.harness.terminal import show
from workbench.masks import Mask
from workbench.operators.attention import OPERATOR
from workbench.operators.builds import Declined
from workbench.operators.operator import DEVICES
from workbench.toolchain import command
from workbench.toolchain.errors import UsageError

KINDS = {  # of masks, and whether they have a stride and are causal
    "full": (False, False),
    "causal": (False, True),
    "local": (False, False),
    "local_stride": (True, False),
    "local_causal": (False, True),
    "local_stride_causal": (True, True),
}
PER_KEY = {torch.float16: 1e-3, torch.float32: 1e-6, torch.float64: 1e-6}  # error allowed
SHORTER = {torch.float16: 1, torch.float32: 2, torch.float64: 4}  # sequences, than --largest
HEADS = (1, 8)
CHANNELS = (8, 32)  # least, most
LARGEST = {"simulator": 256, "gpu": 4096}  # positions
RUNS = {"simulator": 1, "gpu": 20}
BUDGET_MS = 200.0  # of a GPU, for a row of the table
SIMULATED = 3  # runs that are timed on the simulator

Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Sizes = tuple[int, ...]


# ------------------------------------------------------------------------------------------------
# Cases


@dataclass(frozen=True)
class Case:
    """A mask for sequences of one or two dimensions.

    Attributes:
        seq_dims: 1 or 2.
        kind: one of KINDS.
        sync: the sync_mode.
        narrow: whether a window is smaller than the sequences.
    """

    seq_dims: int
    kind: str
    sync: str
    narrow: bool = False

    def __str__(self) -> str:
        return "-".join([f"{self.seq_dims}d", self.kind, *["narrow"] * self.narrow, self.sync])

    def window(self, q_seq: Sizes, k_seq: Sizes) -> tuple[int, int]:
        """window_size and log2_stride_size."""
        strided, _ = KINDS[self.kind]
        if self.narrow:
            return 2 + sum(q_seq + k_seq) % 3, int(strided)
        window = max(q_seq + k_seq)
        return window, int(math.log2(window)) if strided else 0

    def mask(self, q_seq: Sizes, k_seq: Sizes) -> Mask:
        """The rule, for these sequences."""
        widths = (q_seq[1], k_seq[1]) if self.seq_dims == 2 else (0, 0)
        _, causal = KINDS[self.kind]
        window, stride = self.window(q_seq, k_seq) if self.kind.startswith("local") else (0, 0)
        return Mask(causal, window, stride, self.sync, *widths)

    def attend(self, Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor, **named):
        """Call the function of workbench.flash_attention that has this mask."""
        name = f"{self.kind.partition('_')[0]}_{self.seq_dims}d"
        arguments: tuple[object, ...] = ()
        if name.startswith("local"):
            _, causal = KINDS[self.kind]
            arguments = *self.window(self.seq(Q), self.seq(K)), causal
        return getattr(flash_attention, name)(Q, K, V, *arguments, self.sync, **named)

    def seq(self, x: torch.Tensor) -> Sizes:
        """The sequence's sizes."""
        return tuple(x.shape[-self.seq_dims :])


def every_case() -> Iterator[Case]:
    """All cases, in the order of their list."""
    for seq_dims in (1, 2):
        for kind in KINDS:
            for narrow in (False, True) if kind.startswith("local") else (False,):
                for sync in flash_attention.SYNC_MODES:
                    yield Case(seq_dims, kind, sync, narrow)


NAME_WIDTH = max(len(str(case)) for case in every_case())


def selected(pattern: str) -> list[Case]:
    """The cases whose names contain the expression. UsageError if there are none."""
    try:
        expression = command.expression(pattern)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"TESTCASE: {error}") from None
    cases = [case for case in every_case() if expression.search(str(case))]
    if not cases:
        raise UsageError(f"TESTCASE: {pattern!r} is in the name of no case; list prints them")
    return cases


def ranges(case: Case, dtype: torch.dtype, largest: int) -> list[tuple[int, int]]:
    """The smallest and the largest size in each dimension of a sequence."""
    most = largest // SHORTER[dtype]
    if case.seq_dims == 1:
        return [(max(1, largest // 16), most)]
    side = math.isqrt(largest)
    columns = max(1, side // 2) if dtype == torch.float64 else side
    return [(max(1, side // 4), size) for size in (max(1, most // columns), columns)]


def random_tensors(case: Case, dtype: torch.dtype, largest: int, seed: str) -> Three:
    """Q, K and V of random shapes, on the CPU; everything follows from the arguments."""
    generator = torch.Generator().manual_seed(
        zlib.crc32(f"{case} {dtype} {largest} {seed}".encode())
    )

    def size(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    d, dv = size(*CHANNELS), size(*CHANNELS)
    q_seq, k_seq = ([size(*one) for one in ranges(case, dtype, largest)] for _ in range(2))
    shapes = ((*HEADS, d, *q_seq), (*HEADS, d, *k_seq), (*HEADS, dv, *k_seq))
    return tuple(_uniform(shape, dtype, generator) for shape in shapes)


def largest_tensors(case: Case, dtype: torch.dtype, largest: int) -> Three:
    """Q, K and V of the largest shapes, on the CPU."""
    seq = [high for _, high in ranges(case, dtype, largest)]
    generator = torch.Generator().manual_seed(0)
    shape = (*HEADS, CHANNELS[1], *seq)
    return tuple(_uniform(shape, dtype, generator) for _ in range(3))


def _uniform(shape: Sizes, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    wide = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (4 * wide - 2).to(dtype)


def formula(
    Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor, seen: torch.Tensor, seq_dims: int
) -> Three:
    """O, l and m from the whole matrix of scores, in the dtype of Q.

    Args:
        Q: [..., d, sequence].
        K: [..., d, sequence].
        V: [..., dv, sequence].
        seen: bool [queries, keys]: which keys a query sees.
        seq_dims: dimensions of a sequence, 1 or 2.
    """
    q, k, v = (x.flatten(-seq_dims) for x in (Q, K, V))
    scores = torch.einsum("...dq,...dk->...qk", q, k) / math.sqrt(q.shape[-2])
    scores = scores.masked_fill(~seen, -math.inf)
    m = scores.amax(dim=-1)
    p = torch.exp(scores - m.masked_fill(m == -math.inf, 0)[..., None])
    sums = p.sum(dim=-1)
    out = torch.einsum("...qk,...ek->...eq", p / sums.masked_fill(sums == 0, 1)[..., None], v)
    seq = Q.shape[-seq_dims:]
    return out.unflatten(-1, seq), sums.unflatten(-1, seq), m.unflatten(-1, seq)


# ------------------------------------------------------------------------------------------------
# verify


def share_of_allowed(case: Case, tensors: Three, device: torch.device, kernel: str | None) -> float:
    """The largest error of O as a share of what is allowed; NaN if O has one."""
    Q, K, V = (x.to(device) for x in tensors)
    out = case.attend(Q, K, V, kernel=kernel)
    q_seq, k_seq = case.seq(Q), case.seq(K)
    seen = case.mask(q_seq, k_seq).visible(math.prod(q_seq), math.prod(k_seq), device)
    right, _, _ = formula(Q.double(), K.double(), V.double(), seen, case.seq_dims)
    error = (out.double() - right).abs().max()
    return float(error) / (PER_KEY[Q.dtype] * math.prod(k_seq))


def verified(case: Case, asked: argparse.Namespace, device: torch.device) -> tuple[str, bool]:
    """The line of a case, and whether it is right."""
    found, wrong = [], []
    for dtype in PER_KEY:
        name = str(dtype).removeprefix("torch.")
        shares = []
        for run in range(asked.runs if name in asked.dtypes else 0):
            tensors = random_tensors(case, dtype, asked.largest, f"{asked.seed} {run}")
            shapes = ", ".join(f"{n} {list(x.shape)}" for n, x in zip("QKV", tensors, strict=True))
            try:
                share = share_of_allowed(case, tensors, device, asked.kernel)
            except Declined as error:
                found.append(f"{name} declined: {error.reason}")
                break
            except RuntimeError as error:
                wrong.append(f"{name}, run {run}, {shapes}: {str(error).splitlines()[0]}")
                continue
            shares.append(share)
            if not share <= 1:
                wrong.append(f"{name}, run {run}, {shapes}: {share:.3g} times what is allowed")
        if shares:
            found.append(f"{name} {figures.part(max(shares)):>5}")
    verdict = f"WRONG: {'; '.join(wrong)}" if wrong else "ok"
    return f"{case!s:<{NAME_WIDTH}}  {'  '.join(found)}  {verdict}", not wrong


def verify(cases: Sequence[Case], asked: argparse.Namespace, target: str) -> int:
    """Print a line per case, with errors as shares of the tolerance; 1 if any is wrong."""
    right = 0
    for case in cases:
        line, ok = verified(case, asked, torch.device(DEVICES[target]))
        print(line, flush=True)
        right += ok
    print(f"{right} of {len(cases)} cases right: {target}, --seed {asked.seed}")
    return 0 if right == len(cases) else 1


# ------------------------------------------------------------------------------------------------
# benchmark


def timed_on_gpu(runs: dict[str, Callable[[], object]], device: torch.device) -> list[str]:
    """Times and the most bytes in use beyond the inputs, as cells."""
    times = timing.time_interleaved(runs, device, BUDGET_MS)
    cells = [figures.duration(times[name].median_ms) for name in runs]
    for run in runs.values():
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        cells.append(figures.amount(torch.cuda.max_memory_allocated(device) - before, "B"))
    return cells


def timed_on_cpu(runs: dict[str, Callable[[], object]]) -> list[str]:
    """Times of this machine, and the time that the kernel might take on a GPU, as cells."""
    cells = []
    for run in runs.values():
        times = []
        for _ in range(SIMULATED):
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
        cells.append(figures.duration(statistics.median(times)))
    launches = counters.record(runs["flash"])
    found = estimate.estimated(launches, OPERATOR.name, estimate.GPUS[estimate.DEFAULT_GPU])
    return [*cells, found if isinstance(found, str) else figures.duration(found.time_ms)]


def row(case: Case, dtype: torch.dtype, asked: argparse.Namespace, target: str) -> list[str]:
    """The row of a table: what both take."""
    device = torch.device(DEVICES[target])
    Q, K, V = (x.to(device) for x in largest_tensors(case, dtype, asked.largest))
    seq = case.seq(Q)
    seen = case.mask(seq, seq).visible(math.prod(seq), math.prod(seq), device)
    runs: dict[str, Callable[[], object]] = {
        "vanilla": lambda: formula(Q, K, V, seen, case.seq_dims)[0],
        "flash": lambda: case.attend(Q, K, V, kernel=asked.kernel),
    }
    name = f"{case} {str(dtype).removeprefix('torch.')}"
    try:
        cells = timed_on_gpu(runs, device) if target == "gpu" else timed_on_cpu(runs)
    except Declined as error:
        return [name, f"declined: {error.reason}"]
    return [name, "x".join(map(str, Q.shape)), *cells]


def benchmark(cases: Sequence[Case], asked: argparse.Namespace, target: str) -> int:
    """Print a table: PyTorch's operators on the whole matrix of scores, and flash_attention."""
    dtypes = [dtype for dtype in PER_KEY if str(dtype).removeprefix("torch.") in asked.dtypes]
    rows = [row(case, dtype, asked, target) for case in cases for dtype in dtypes]
    if target == "gpu":
        last = ["vanilla\nbytes", "flash\nbytes"]
    else:
        last = [f"flash on\n{estimate.GPUS[estimate.DEFAULT_GPU].title}"]
    show("", ["forward", "Q, K, V", "vanilla", "flash", *last], rows)
    if target == "simulator":
        print("Times of this CPU, with flash on the simulator; the last column is an estimate.")
    return 0


# ------------------------------------------------------------------------------------------------
# Command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments and TESTCASE ask for; return the exit status."""
    asked = _parser().parse_args(arguments)
    cases = selected(os.environ.get("TESTCASE", ""))
    if asked.what == "list":
        print("\n".join(map(str, cases)))
        return 0
    target, _ = choose_target(asked.target)
    rungs = choose_rungs(OPERATOR, [asked.kernel] if asked.kernel else (), ())
    asked.dtypes = {dtype for rung in rungs for dtype in rung.dtypes}
    asked.largest = asked.largest or LARGEST[target]
    asked.runs = asked.runs or RUNS[target]
    return (verify if asked.what == "verify" else benchmark)(cases, asked, target)


def _parser() -> argparse.ArgumentParser:
    made = command.Parser(
        prog="python -m tests.masks",
        description="Check or time workbench.flash_attention under every mask. The environment "
        "variable TESTCASE, a regular expression, selects cases.",
    )
    made.add_argument(
        "what", choices=("list", "verify", "benchmark"), help="the cases; errors; times and memory"
    )
    made.add_argument("--target", choices=tuple(DEVICES), help="default: the GPU if there is one")
    made.add_argument("--kernel", metavar="RUNG", help="default: the last that accepts the input")
    made.add_argument(
        "--largest",
        type=command.Whole(16, 2**14),
        metavar="N",
        help="positions of the longest sequence in float16; half as many in float32, a quarter in "
        f"float64; default: {LARGEST['gpu']} on a GPU, {LARGEST['simulator']} on the simulator",
    )
    made.add_argument(
        "--runs",
        type=command.Whole(1),
        metavar="N",
        help="verify: random shapes per case and dtype; default: "
        f"{RUNS['gpu']} on a GPU, {RUNS['simulator']} on the simulator",
    )
    made.add_argument(
        "--seed", type=command.Whole(), default=0, metavar="N", help="verify: default: 0"
    )
    return made


if __name__ == "__main__":
    command.run(main)
