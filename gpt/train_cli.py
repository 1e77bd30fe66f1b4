"""The command lines of gpt.py train and gpt.py evaluate."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from workbench.harness.figures import of
from workbench.harness.terminal import console
from workbench.toolchain import command
from workbench.toolchain.errors import Failure, UsageError
from workbench.toolchain.terminals import can_erase

from . import figures, text
from .checkpoint import Checkpoint
from .cli import MODEL as SHIPPED
from .cli import flag_of
from .text import Data
from .train import CHECKPOINT, MODEL, Settings, Training
from .train import evaluate as loss_of

OUT = Path("gpt_out")
PICTURE = "loss.png"
_DATA_HELP = "a text in UTF-8; default: Python's reference documentation (pydoc_data.topics)"
# Of train.Settings: the option's type and help.
_SETTINGS: dict[str, tuple[Callable[[str], object], str]] = {
    "layers": (command.Whole(1, 64), "of attention and MLP"),
    "heads": (command.Whole(1, 256), "of attention"),
    "width": (command.Whole(1, 8192), "of embeddings"),
    "context": (command.Whole(1, 2048), "positions, the most characters it sees at once"),
    "window": (command.Whole(1, 2048), "characters of a window"),
    "long": (
        command.Number(0, 1),
        "share of the steps whose windows are as long as the context",
    ),
    "batch": (command.Whole(1, 4096), "windows per step"),
    "steps": (command.Whole(1, 10**7), "updates of the parameters"),
    "learning_rate": (command.positive, "its maximum"),
    "warmup": (command.Whole(0, 10**6), "steps before that"),
    "weight_decay": (command.positive, "of matrices and embeddings"),
    "clip": (command.positive, "the largest norm of the gradients"),
    "interval": (command.Whole(1, 10**6), "steps between evaluations and checkpoints"),
    "seed": (command.Whole(), "of parameters and windows"),
}


def _train_parser() -> argparse.ArgumentParser:
    made = command.Parser(prog="gpt.py train", description="Train a GPT on a text.")
    made.add_argument("--data", type=Path, metavar="FILE", help=_DATA_HELP)
    made.add_argument("--out", type=Path, metavar="DIR", help=f"for its files; default: {OUT}")
    made.add_argument(
        "--resume", action="store_true", help="continue the training in --out, as it was set up"
    )
    for name, (of_type, about) in _SETTINGS.items():
        default = getattr(Settings, name)
        made.add_argument(flag_of(name), type=of_type, help=f"{about}; default: {default:g}")
    made.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of matrix products; bfloat16 is faster on CPUs with instructions for it; default: "
        "float32",
    )
    return made


def train(words: Sequence[str]) -> int:
    """Run ``gpt.py train`` with the words that follow; return its exit status."""
    asked = _train_parser().parse_args(words)
    given = {name: getattr(asked, name) for name in (*_SETTINGS, "dtype")}
    given = {name: value for name, value in given.items() if value is not None}
    out = asked.out or OUT
    _check_out(out, asked.resume, given)
    data = Data.of_text(text.read(asked.data))
    if asked.resume:
        training = _resumed(out / CHECKPOINT, data)
    else:
        training = Training.new(_fitting(Settings(**given), data), data)
    try:
        command.folder(str(out))
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--out: {error}") from None
    _announce(training)
    with _Progress(training) as progress:
        training.run(out, progress.step)
    print(out / MODEL)
    try:
        figures.loss(out / PICTURE, training.losses_by_window(), training.evaluations)
        print(out / PICTURE)
    except Failure as missing:
        print(missing, file=sys.stderr)
    return 0


def _check_out(out: Path, resume: bool, given: dict[str, object]) -> None:
    """Raise UsageError if files would be overwritten, or there is nothing to continue."""
    if resume and given:
        flag = flag_of(next(iter(given)))
        raise UsageError(f"{flag}: with --resume everything is as it was set up")
    if resume and not os.path.exists(out / CHECKPOINT):
        raise UsageError(f"--resume: there is no {out / CHECKPOINT}")
    there = [name for name in (CHECKPOINT, MODEL, PICTURE) if os.path.exists(out / name)]
    if there and not resume:
        raise UsageError(
            f"--out: {out} has a {there[0]}; continue its training with --resume, or name another "
            "folder"
        )


def _resumed(path: Path, data: Data) -> Training:
    try:
        return Training.resumed(path, data)
    except Failure as error:
        raise UsageError(f"--resume: {error}") from None


def _fitting(settings: Settings, data: Data) -> Settings:
    """The settings, if they fit each other and the text. Raises UsageError."""
    if settings.width % settings.heads:
        raise UsageError(f"--width {settings.width}: expected a multiple of {settings.heads} heads")
    for name, tokens in (("train on", data.train), ("validate with", data.validation)):
        longest = settings.context if settings.long and tokens is data.train else settings.window
        need = min(longest, settings.context) + 1
        if len(tokens) < need:
            raise UsageError(
                f"--data: {len(tokens)} characters to {name} are too few; expected at least {need} "
                "(see --context and --window)"
            )
    return settings


def _announce(training: Training) -> None:
    data, model = training.data, training.model
    size = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{len(data.train)} characters to train on, {len(data.validation)} to validate with, "
        f"{len(data.tokenizer)} different; {size} parameters; "
        f"{of(torch.get_num_threads(), 'thread')}",
        flush=True,
    )


class _Progress:
    """Shows a training's progress: a bar in a terminal, a line per evaluation everywhere."""

    def __init__(self, training: Training) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        to, seen = console(sys.stderr), can_erase(sys.stderr)
        self.bar = Progress(*columns, console=to, transient=True, disable=not seen)
        steps = training.settings.steps
        self.task = self.bar.add_task("", total=steps, completed=training.step)
        self.start, self.tokens = time.perf_counter(), 0

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def step(self, training: Training) -> None:
        """Tell what a step has done."""
        batch, length = training.settings.windows(training.step - 1)
        self.tokens += batch * length
        rate = self.tokens / (time.perf_counter() - self.start)
        words = f"loss {training.losses[-1]:.3f}, {rate:.0f} tokens/s"
        self.bar.update(self.task, completed=training.step, description=words)
        found = training.evaluations[-1] if training.evaluations else {"step": 0}
        if found["step"] == training.step:
            losses = f"train {found['train']:.4f}, validation {found['validation']:.4f}"
            print(f"step {training.step}: {losses}, {rate:.0f} tokens/s", flush=True)


def _evaluate_parser() -> argparse.ArgumentParser:
    made = command.Parser(
        prog="gpt.py evaluate",
        description="The loss of a model on the last tenth of a text, in nats per character.",
    )
    made.add_argument("--data", type=Path, metavar="FILE", help=_DATA_HELP)
    made.add_argument("-m", "--model", metavar="MODEL", help="default: the one that gpt.py ships")
    made.add_argument(
        "--context", type=command.Whole(1, 2048), default=256, help="characters of a window"
    )
    return made


def evaluate(words: Sequence[str]) -> int:
    """Run ``gpt.py evaluate`` with the words that follow; return its exit status."""
    asked = _evaluate_parser().parse_args(words)
    whole = text.read(asked.data)
    try:
        checkpoint = Checkpoint.read(Path(asked.model) if asked.model else SHIPPED)
    except Failure as error:
        raise UsageError(f"-m {error}") from None
    most = checkpoint.model.config.context
    if asked.context > most:
        raise UsageError(f"--context {asked.context}: the model has {most} positions")
    try:
        data = Data.of_text(whole, checkpoint.tokenizer)
    except Failure as error:
        raise UsageError(f"--data: {error}") from None
    if len(data.validation) <= asked.context:
        raise UsageError(f"--data: its last tenth is shorter than {asked.context + 1} characters")
    loss = loss_of(checkpoint.model, data.validation, asked.context)
    print(f"{loss:.4f} nats per character, in windows of {asked.context}")
    return 0
