"""The command line of gpt.py: parts, inference, training, evaluation."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from workbench.harness.terminal import console
from workbench.toolchain import command, default_target
from workbench.toolchain.errors import Failure, UsageError

from . import access, attend, parts
from .attend import PARTS, Rung
from .checkpoint import Checkpoint

if TYPE_CHECKING:
    from .text import Data
    from .train import Settings, Training

ACCESS = "4Daccess"
MODEL = Path(__file__).parent / "shakes.safetensors"
MODELS = {"shakes128": 128, "shakes256": 256, "shakes1024": 1024, "shakes2048": 2048}
MOST_N = 65536
TARGETS = ("cpu", "simulator", "gpu")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run gpt.py; return its exit status.

    arguments: the command line, ``sys.argv[1:]`` if None.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    run = {"train": _train, "evaluate": _evaluate}.get(words[0] if words else "")
    return run(words[1:]) if run else _attention(words)


# ---- Attention alone, and inference -------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    made = command.Parser(
        prog="gpt.py",
        description="Attention by a rung, alone or in a GPT that writes text. "
        "gpt.py train and gpt.py evaluate have options of their own (--help).",
    )
    made.add_argument(
        "what",
        metavar="PART",
        help=f"{', '.join(f'{part} ({name})' for part, name in PARTS.items())}, any other rung of "
        f"the attention ladder, or {ACCESS}",
    )
    made.add_argument(
        "--target",
        choices=TARGETS,
        default="cpu",
        help="where the rung runs; default: cpu, with the rungs cpu_...",
    )
    alone = made.add_argument_group("attention alone")
    alone.add_argument("-N", type=command.Whole(1, MOST_N), help="queries and keys; default: 1024")
    alone.add_argument("-br", type=command.Whole(1), help="queries per tile; default: 256 or N")
    alone.add_argument("-bc", type=command.Whole(1), help="keys per tile; default: 256 or N")
    text = made.add_argument_group("text")
    text.add_argument("--inference", action="store_true", help="write text")
    text.add_argument(
        "-m",
        "--model",
        metavar="MODEL",
        help=f"{', '.join(MODELS)}: the same model, and how many characters a sample has; or a "
        "file that gpt.py train wrote; default: shakes128",
    )
    text.add_argument("--tokens", type=command.Whole(1, 10**6), help="characters of a sample")
    text.add_argument("--prompt", metavar="TEXT", help="where a sample begins; default: a new line")
    text.add_argument("--temperature", type=command.Number(), help="default: 0.8; 0: the likeliest")
    text.add_argument(
        "--top-k",
        type=command.Whole(1),
        help="of how many likeliest one is drawn; default: 200",
    )
    text.add_argument("--seed", type=command.Whole(), help="default: 1337")
    text.add_argument("--samples", type=command.Whole(1), help="default: 10")
    text.add_argument(
        "--decode", metavar="RUNG", help="the rung for single queries; default: the same"
    )
    text.add_argument(
        "--compare", action="store_true", help="print how far the rung is from PyTorch, by layer"
    )
    text.add_argument(
        "--plot",
        type=command.output,
        metavar="FILE",
        help="draw the time per character against those so far (PNG), and end",
    )
    text.add_argument("--beside", metavar="RUNG", help="another rung for that picture")
    return made


_DEFAULTS = {"temperature": 0.8, "top_k": 200, "seed": 1337, "samples": 10, "prompt": "\n"}
_OF_TEXT = ("model", "tokens", *_DEFAULTS, "decode", "plot", "beside")


def _attention(words: Sequence[str]) -> int:
    asked = _parser().parse_args(words)
    _check_combination(asked)
    if asked.what == ACCESS:
        text, right = access.check()
        print(f"{text}\n{'all are equal' if right else 'WRONG'}")
        return 0 if right else 1
    rung = _choose(asked.what, asked.target)
    if asked.inference:
        return _inference(asked, rung)
    n = asked.N or 1024
    br, bc = (min(256, n) if size is None else size for size in (asked.br, asked.bc))
    return 0 if parts.run(rung, n, br, bc) else 1


def _check_combination(asked: argparse.Namespace) -> None:
    """Raise UsageError for options that have no effect or no meaning together."""
    alone = [f"-{name}" for name in ("N", "br", "bc") if getattr(asked, name) is not None]
    of_text = [_flag(name) for name in _OF_TEXT if getattr(asked, name) is not None]
    of_text += ["--compare"] * asked.compare
    if asked.what == ACCESS and (alone or of_text or asked.inference):
        raise UsageError(f"{ACCESS} has no options")
    if asked.inference and alone:
        raise UsageError(f"{alone[0]} is for attention alone: omit it, or --inference")
    if of_text and not asked.inference:
        raise UsageError(f"{of_text[0]} needs --inference")
    if asked.beside and not asked.plot:
        raise UsageError("--beside names a rung for --plot FILE, which is missing")
    for name in ("br", "bc"):
        size, n = getattr(asked, name), asked.N or 1024
        if size is not None and size > n:
            raise UsageError(f"-{name} {size}: a tile has at most N = {n}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _choose(word: str, target: str) -> Rung:
    if target == "gpu" and default_target() != "gpu":
        raise UsageError("--target gpu: PyTorch finds no GPU; --target simulator runs its kernels")
    if word == ACCESS:
        raise UsageError(f"{word} is no rung")
    return attend.choose(word, target)


@dataclass(frozen=True)
class Model:
    """A model for inference, and how long its samples are."""

    checkpoint: Checkpoint
    tokens: int


def _model(asked: argparse.Namespace) -> Model:
    name = asked.model or next(iter(MODELS))
    if name in MODELS:
        return Model(Checkpoint.read(MODEL), asked.tokens or MODELS[name])
    if not name.endswith(".safetensors"):
        raise UsageError(
            f"-m {name}: expected one of {', '.join(MODELS)}, or a .safetensors file that gpt.py "
            "train wrote"
        )
    checkpoint = _read(Path(name))
    return Model(checkpoint, asked.tokens or checkpoint.model.config.context)


def _read(path: Path) -> Checkpoint:
    """The checkpoint that the command line names. Raises UsageError."""
    try:
        return Checkpoint.read(path)
    except Failure as error:
        raise UsageError(f"-m {error}") from None


def _inference(asked: argparse.Namespace, rung: Rung) -> int:
    from . import speak

    for name, value in _DEFAULTS.items():
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    if not asked.prompt:
        raise UsageError("--prompt: expected at least one character")
    chosen = _model(asked)
    try:
        prompt = chosen.checkpoint.tokenizer.encode(asked.prompt).tolist()
    except Failure as error:
        raise UsageError(f"--prompt: {error}") from None
    decode = _choose(asked.decode, asked.target) if asked.decode else rung
    if asked.plot:
        rungs = [rung] + ([_choose(asked.beside, asked.target)] if asked.beside else [])
        return speak.plot(chosen.checkpoint, rungs, asked.plot)
    return speak.speak(
        chosen.checkpoint,
        rung,
        decode,
        speak.Speech(
            prompt,
            chosen.tokens,
            asked.samples,
            asked.seed,
            speak.Sampler(asked.temperature, asked.top_k),
            asked.compare,
        ),
    )


# ---- Training and evaluation --------------------------------------------------------------------

OUT = Path("gpt_out")
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
    from .train import Settings

    made = command.Parser(prog="gpt.py train", description="Train a GPT on a text.")
    made.add_argument("--data", type=Path, metavar="FILE", help=_DATA_HELP)
    made.add_argument(
        "--out", type=command.folder, metavar="DIR", help=f"for its files; default: {OUT}"
    )
    made.add_argument(
        "--resume", action="store_true", help="go on with the training in --out, as it was set up"
    )
    for name, (of_type, text) in _SETTINGS.items():
        default = getattr(Settings, name)
        made.add_argument(_flag(name), type=of_type, help=f"{text}; default: {default:g}")
    made.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of matrix products; bfloat16 is faster on CPUs with instructions for it; default: "
        "float32",
    )
    return made


def _train(words: Sequence[str]) -> int:
    from . import figures, text
    from .train import CHECKPOINT, MODEL, Settings, Training

    asked = _train_parser().parse_args(words)
    given = {name: getattr(asked, name) for name in (*_SETTINGS, "dtype")}
    given = {name: value for name, value in given.items() if value is not None}
    out = asked.out or OUT
    out.mkdir(exist_ok=True)
    there = (out / CHECKPOINT).exists()
    if asked.resume and given:
        raise UsageError(
            f"{_flag(next(iter(given)))}: with --resume everything is as it was set up"
        )
    if asked.resume and not there:
        raise UsageError(f"--resume: there is no {out / CHECKPOINT}")
    if there and not asked.resume:
        raise UsageError(f"--out: {out} holds a training: go on with --resume, or name another")
    data = text.Data.of_text(text.read(asked.data))
    if asked.resume:
        training = Training.resumed(out / CHECKPOINT, data)
    else:
        training = Training.new(_fitting(Settings(**given), data), data)
    _announce(training)
    with _Progress(training) as progress:
        training.run(out, progress.step)
    print(out / MODEL)
    try:
        figures.loss(out / "loss.png", training.losses_by_window(), training.evaluations)
        print(out / "loss.png")
    except Failure as missing:
        print(missing, file=sys.stderr)
    return 0


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
    threads = torch.get_num_threads()
    print(
        f"{len(data.train)} characters to train on, {len(data.validation)} to validate with, "
        f"{len(data.tokenizer)} different; {size} parameters; "
        f"{threads} thread{'s' * (threads != 1)}",
        flush=True,
    )


class _Progress:
    """Shows a training's progress: a bar in a terminal, a line per evaluation everywhere."""

    def __init__(self, training: Training) -> None:
        to = console(sys.stderr)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=to, transient=True, disable=not to.is_terminal)
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


def _evaluate(words: Sequence[str]) -> int:
    from . import text
    from .train import evaluate

    asked = _evaluate_parser().parse_args(words)
    whole = text.read(asked.data)
    checkpoint = _read(Path(asked.model)) if asked.model else Checkpoint.read(MODEL)
    most = checkpoint.model.config.context
    if asked.context > most:
        raise UsageError(f"--context {asked.context}: the model has {most} positions")
    data = text.Data.of_text(whole, checkpoint.tokenizer)
    if len(data.validation) <= asked.context:
        raise UsageError(f"--data: its last tenth is shorter than {asked.context + 1} characters")
    loss = evaluate(checkpoint.model, data.validation, asked.context)
    print(f"{loss:.4f} nats per character, in windows of {asked.context}")
    return 0
