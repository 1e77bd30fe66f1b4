"""Training: AdamW on random windows of a text, as nanoGPT does it.

Everything random is drawn from the seed and the number of the step. So training that went on from
a checkpoint gives the same parameters as training that never stopped, bit for bit on one machine
with the same number of threads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from workbench.toolchain.errors import Failure, UsageError

from .checkpoint import Checkpoint
from .model import GPT, Config
from .text import Data, windows

CHECKPOINT = "checkpoint.safetensors"  # to go on from
MODEL = "model.safetensors"  # float16, to generate from
EVALUATED = 64  # windows of an evaluation during training


@dataclass(frozen=True)
class Settings:
    """How a model is trained.

    Attributes:
        context: positions of the model.
        window: tokens of a window.
        long: the share of steps whose windows have all positions of the model instead; they are
            spread evenly, as positions that are seen too late are never learned.
        batch: windows per step; of the longer ones as many as have as many tokens.
        steps: updates of the parameters.
        learning_rate: its maximum, after ``warmup`` steps; a cosine then leads to a tenth of it.
        weight_decay: of matrices and embeddings.
        clip: the largest norm of all gradients together.
        interval: steps between evaluations, each of which writes a checkpoint.
        seed: of the parameters and the windows.
        dtype: of matrix products, "float32" or "bfloat16"; the parameters are float32.
    """

    layers: int = 4
    heads: int = 4
    width: int = 128
    context: int = 1024
    window: int = 256
    long: float = 0.5
    batch: int = 32
    steps: int = 5000
    learning_rate: float = 3e-3
    warmup: int = 200
    weight_decay: float = 0.1
    clip: float = 1.0
    interval: int = 250
    seed: int = 1337
    dtype: str = "float32"

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.55 + 0.45 * math.cos(math.pi * min(1.0, done)))

    def windows(self, step: int) -> tuple[int, int]:
        """Windows of a step, and tokens of each."""
        if int((step + 1) * self.long) > int(step * self.long):
            return max(1, self.batch * self.window // self.context), self.context
        return self.batch, min(self.window, self.context)


@dataclass
class Training:
    """A model on its way; ``run`` goes on to the last step."""

    settings: Settings
    data: Data
    model: GPT
    optimizer: torch.optim.AdamW
    step: int = 0
    losses: list[float] = field(default_factory=list)  # one for each step
    evaluations: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def new(cls, settings: Settings, data: Data) -> Training:
        """Training from the start. Raises ValueError if the sizes of the model do not fit."""
        sizes = {"layers": settings.layers, "heads": settings.heads, "width": settings.width}
        model = GPT(Config(len(data.tokenizer), settings.context, **sizes))
        model.initialise(settings.seed)
        return cls(settings, data, model, _optimizer(model, settings))

    @classmethod
    def resumed(cls, path: Path, data: Data) -> Training:
        """Training from a checkpoint's step on. Raises Failure, or UsageError for another text."""
        checkpoint = Checkpoint.read(path)
        record = checkpoint.record
        try:
            settings = Settings(**record["settings"])
            step, evaluations, digest = record["step"], record["evaluations"], record["text"]
            optimizer = _optimizer(checkpoint.model, settings)
            _restore(optimizer, checkpoint.model, checkpoint.state, step)
            losses = checkpoint.state["losses"].tolist()
        except (KeyError, TypeError) as error:
            raise Failure(f"{path} holds a model, but no training to continue: {error}") from None
        if digest != data.digest:
            raise UsageError(f"--data: {path} was trained on another text")
        data = dataclasses.replace(data, tokenizer=checkpoint.tokenizer)
        return cls(settings, data, checkpoint.model, optimizer, step, losses, evaluations)

    def run(self, out: Path, report: Callable[[Training], None]) -> None:
        """Train to the last step, and write both files to ``out`` at every interval.

        report: called after each step.
        """
        while self.step < self.settings.steps:
            self.losses.append(self._update())
            self.step += 1
            last = self.step == self.settings.steps
            if last or self.step % self.settings.interval == 0:
                self.evaluations.append({"step": self.step} | self._evaluate())
                self.write(out)
            report(self)

    def losses_by_window(self) -> dict[str, list[tuple[int, float]]]:
        """(step, loss) of every step, by the length of its windows."""
        found: dict[str, list[tuple[int, float]]] = {}
        for step, loss in enumerate(self.losses):
            length = self.settings.windows(step)[1]
            found.setdefault(f"each step, {length} characters", []).append((step + 1, loss))
        return found

    def _update(self) -> float:
        settings = self.settings
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.step)
        batch, length = settings.windows(self.step)
        tokens, following = windows(self.data.train, batch, length, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(self.step)
        narrow = settings.dtype == "bfloat16"
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            logits = self.model(tokens)
        loss = cross_entropy(logits.float().flatten(0, 1), following.flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        self.optimizer.step()
        if not math.isfinite(loss.item()):
            raise Failure(f"the loss of step {self.step} is {loss.item()}; lower --learning-rate")
        return loss.item()

    def _evaluate(self) -> dict[str, float]:
        length = min(self.settings.window, self.settings.context)
        parts = {"train": self.data.train, "validation": self.data.validation}
        return {
            name: evaluate(self.model, tokens, length, EVALUATED) for name, tokens in parts.items()
        }

    def write(self, out: Path) -> None:
        """Write the checkpoint and the model. Raises OSError."""
        record = {
            "settings": dataclasses.asdict(self.settings),
            "step": self.step,
            "text": self.data.digest,
            "evaluations": self.evaluations,
        }
        state = _state(self.optimizer, self.model)
        state["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        whole = Checkpoint(self.model, self.data.tokenizer, record, state)
        whole.write(out / CHECKPOINT)
        Checkpoint(self.model, self.data.tokenizer, record).write(out / MODEL, torch.float16)


@torch.no_grad()
def evaluate(model: GPT, tokens: torch.Tensor, length: int, most: int | None = None) -> float:
    """The mean loss in nats per token, over windows of ``length`` tokens from position 0 on.

    The windows are adjacent and cover the tokens but for a rest at the end; with ``most``, that
    many of them, evenly spread.
    """
    starts = torch.arange(0, len(tokens) - length, length)
    if most is not None and len(starts) > most:
        starts = starts[torch.linspace(0, len(starts) - 1, most).long()]
    total = 0.0
    for part in starts.split(16):
        places = part[:, None] + torch.arange(length)
        loss = cross_entropy(
            model(tokens[places]).flatten(0, 1), tokens[places + 1].flatten(), reduction="sum"
        )
        total += loss.item()
    return total / (len(starts) * length)


def _optimizer(model: GPT, settings: Settings) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99), fused=True)


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _state(optimizer: torch.optim.AdamW, model: GPT) -> dict[str, torch.Tensor]:
    """The optimizer's moments by the names of their parameters."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        for moment in _MOMENTS
    }


def _restore(
    optimizer: torch.optim.AdamW, model: GPT, state: dict[str, torch.Tensor], step: int
) -> None:
    for name, parameter in model.named_parameters():
        moments = {moment: state[f"{moment}.{name}"] for moment in _MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
