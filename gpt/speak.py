"""Samples of text on the terminal, their speed, and how far a rung is from PyTorch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from workbench.harness.terminal import show
from workbench.toolchain import command

from . import figures
from .attend import Rung
from .checkpoint import Checkpoint
from .generate import Compared, Sampler, Stream, generate
from .model import Attend, Cache

LINE = "-" * 60
FAR = 1e-2  # from PyTorch's attention: that is another result, not rounding
REPEATED = 3  # runs of which a picture shows the fastest


@dataclass(frozen=True)
class Speech:
    """What is asked for.

    Attributes:
        prompt: the tokens that a sample starts with.
        tokens: characters of a sample.
        samples: how many.
        seed: of the first; the others go on from it.
        sampler: how characters are drawn.
        compare: whether to compute attention with PyTorch too.
    """

    prompt: list[int]
    tokens: int
    samples: int
    seed: int
    sampler: Sampler
    compare: bool


def speak(checkpoint: Checkpoint, prefill: Rung, decode: Rung, asked: Speech) -> int:
    """Print samples on stdout as they are drawn, their speed on stderr.

    Returns 1 if the rung was compared and is further than FAR from PyTorch, else 0.
    """
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    attend = {"prefill": prefill, "decode": decode}
    compared: dict[str, Compared] = {}
    if asked.compare:
        layers = model.config.layers
        compared = {name: Compared(rung, layers) for name, rung in attend.items()}
    by: dict[str, Attend] = dict(compared or attend)
    generator = torch.Generator().manual_seed(asked.seed)
    names = dict.fromkeys(f"{rung.name} on the {rung.target}" for rung in attend.values())
    print(f"attention by {' and '.join(names)}", file=sys.stderr)
    context = model.config.context
    if len(asked.prompt) > context:
        print(f"of the prompt, the last {context} characters are read", file=sys.stderr)
    for sample in range(asked.samples):
        start = time.perf_counter()
        print(tokenizer.decode(asked.prompt), end="", flush=True)
        stream = Stream(model, by["prefill"], by["decode"], list(asked.prompt))
        for token in generate(stream, asked.sampler, asked.tokens, generator):
            print(tokenizer.decode([token]), end="", flush=True)
            if command.reader_is_gone():
                return 0
        print(f"\n{LINE}", flush=True)
        rate = asked.tokens / (time.perf_counter() - start)
        print(
            f"sample {sample + 1} of {asked.samples}: {asked.tokens} characters, {rate:.0f} per "
            f"second{_read_again(stream)}",
            file=sys.stderr,
        )
    if compared:
        _show_differences(compared)
        if not all(far <= FAR for found in compared.values() for far in found.differences):
            print(f"the rung is further than {FAR:g} from PyTorch", file=sys.stderr)
            return 1
    return 0


def _read_again(stream: Stream) -> str:
    if not stream.read_again:
        return ""
    times = "once" if stream.read_again == 1 else f"{stream.read_again} times"
    return f"; its {stream.model.config.context} positions ran out {times}"


def _show_differences(compared: dict[str, Compared]) -> None:
    rows = [
        [
            f"{name}, layer {layer}",
            str(len(range(layer, found.calls, found.layers))),
            f"{difference:.2g}",
            f"{size:.2g}",
        ]
        for name, found in compared.items()
        for layer, (difference, size) in enumerate(zip(found.differences, found.sizes, strict=True))
        if found.calls
    ]
    titles = ["attention", "calls", "largest\ndifference", "largest\nnumber"]
    show("the rung beside PyTorch", titles, rows, sys.stderr)


@torch.no_grad()
def plot(checkpoint: Checkpoint, rungs: list[Rung], path: Path) -> int:
    """Draw the time for the next character, with the keys and values so far and without; return 0.

    Without them the model reads the whole text again for each character: N^2 scores per layer.
    """
    model = checkpoint.model
    most = model.config.context
    lengths = [1 << i for i in range(4, most.bit_length()) if 1 << i <= most]
    seconds: dict[str, list[float]] = {}
    for rung in rungs:
        model.attend = rung
        whole, single = [], []
        for n in lengths:
            tokens = torch.zeros(1, n, dtype=torch.int64)
            whole.append(_fastest(partial(model, tokens)))
            cache = Cache(model.config)
            model(tokens[:, 1:], cache)

            def one(cache: Cache = cache, n: int = n, tokens: torch.Tensor = tokens) -> None:
                cache.length = n - 1
                model(tokens[:, :1], cache)

            single.append(_fastest(one))
        seconds[f"{rung.name}, all characters again"] = whole
        seconds[f"{rung.name}, keys and values kept"] = single
    figures.times(path, lengths, seconds)
    rows = [
        [str(n), *(f"{1e3 * values[i]:.3g}" for values in seconds.values())]
        for i, n in enumerate(lengths)
    ]
    titles = ["characters", *(name.replace(", ", "\n") for name in seconds)]
    show("ms for the next character", titles, rows)
    print(path)
    return 0


def _fastest(run: Callable[[], object]) -> float:
    """The shortest time of a few runs, in seconds, after one to warm up."""
    found = []
    for _ in range(REPEATED + 1):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found[1:])
