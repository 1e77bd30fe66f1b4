"""The command line of gpt.py: attention alone, and text. Training has train_cli."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.harness.environment import memory_bytes
from workbench.harness.figures import amount
from workbench.plots import style
from workbench.toolchain import command, default_target
from workbench.toolchain.errors import Failure, UsageError

from . import access, attend, parts
from .attend import PARTS, Rung
from .checkpoint import Checkpoint

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
    first = words[0] if words else ""
    if first in ("train", "evaluate"):
        from . import train_cli

        return train_cli.train(words[1:]) if first == "train" else train_cli.evaluate(words[1:])
    return _attention(words)


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
    _add_options_of_text(made.add_argument_group("text"))
    return made


def _add_options_of_text(text: argparse._ArgumentGroup) -> None:
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
        type=style.output,
        metavar="FILE",
        help="instead of text: draw the time per character against those so far (PNG, SVG, PDF)",
    )
    text.add_argument("--beside", metavar="RUNG", help="another rung for that picture")


_DEFAULTS = {"temperature": 0.8, "top_k": 200, "seed": 1337, "samples": 10, "prompt": "\n"}
_OF_SAMPLES = ("tokens", *_DEFAULTS, "decode")
_OF_TEXT = ("model", *_OF_SAMPLES, "plot", "beside")


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
    _check_memory(n)
    for name in ("br", "bc"):
        if getattr(asked, name) is not None and not rung.tiles:
            raise UsageError(f"-{name}: the tiles of {rung.name} are not for choice")
    br, bc = (min(256, n) if size is None else size for size in (asked.br, asked.bc))
    return 0 if parts.run(rung, n, br, bc) else 1


def _check_memory(n: int) -> None:
    """Raise UsageError if PyTorch's two matrices of scores do not fit."""
    need, have = parts.reference_bytes(n), memory_bytes("cpu")
    if need > have:
        raise UsageError(
            f"-N {n}: the reference, which keeps all scores, takes {amount(need, 'B')}; this "
            f"machine has {amount(have, 'B')}"
        )


def _check_combination(asked: argparse.Namespace) -> None:
    """Raise UsageError for options that have no effect or no meaning together."""
    alone = [f"-{name}" for name in ("N", "br", "bc") if getattr(asked, name) is not None]
    of_text = [flag_of(name) for name in _OF_TEXT if getattr(asked, name) is not None]
    of_text += ["--compare"] * asked.compare
    if asked.what == ACCESS and (alone or of_text or asked.inference):
        raise UsageError(f"{ACCESS} has no options")
    if asked.inference and alone:
        raise UsageError(f"{alone[0]} is for attention alone: omit it, or --inference")
    if of_text and not asked.inference:
        raise UsageError(f"{of_text[0]} needs --inference")
    of_samples = [flag_of(name) for name in _OF_SAMPLES if getattr(asked, name) is not None]
    of_samples += ["--compare"] * asked.compare
    if asked.plot and of_samples:
        raise UsageError(f"{of_samples[0]} is for text, and --plot writes none: omit one of them")
    if asked.beside and not asked.plot:
        raise UsageError("--beside names a rung for --plot FILE, which is missing")
    for name in ("br", "bc"):
        size, n = getattr(asked, name), asked.N or 1024
        if size is not None and size > n:
            raise UsageError(f"-{name} {size}: a tile has at most N = {n}")


def flag_of(name: str) -> str:
    """The option of that name: ``--top-k``."""
    return f"--{name.replace('_', '-')}"


def _choose(word: str, target: str) -> Rung:
    if target == "gpu" and default_target() != "gpu":
        raise UsageError("--target gpu: PyTorch finds no GPU; --target simulator runs its kernels")
    if word == ACCESS:
        raise UsageError(f"{word} is not a rung")
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
