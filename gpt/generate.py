"""Text from a model: characters, one after the other, each drawn from the model's prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from .attend import by_torch
from .model import GPT, Attend, Cache


@dataclass(frozen=True)
class Sampler:
    """How a token is drawn from logits.

    Attributes:
        temperature: the logits are divided by it; 0 takes the most likely token.
        top_k: only so many of the most likely tokens are drawn.
    """

    temperature: float = 0.8
    top_k: int = 200

    def draw(self, logits: torch.Tensor, generator: torch.Generator) -> int:
        """A token for logits [vocabulary]."""
        if self.temperature == 0:
            return int(logits.argmax())
        values, tokens = logits.topk(min(self.top_k, len(logits)))
        probabilities = torch.softmax(values / self.temperature, dim=-1)
        return int(tokens[torch.multinomial(probabilities, 1, generator=generator)])


@dataclass
class Stream:
    """Logits of the next token, again and again, for a text that grows.

    The keys and values of earlier tokens are kept, so that a token costs one row of attention.
    Positions are absolute: when all are taken, the later half of the text is read again from
    position 0.

    Attributes:
        model: the model.
        prefill: attention for several tokens at once.
        decode: attention for a single one.
        tokens: the text so far.
        read_again: how often the positions had run out.
    """

    model: GPT
    prefill: Attend
    decode: Attend
    tokens: list[int]
    read_again: int = 0
    cache: Cache = field(init=False)
    _read: int = 0  # tokens that the cache has seen
    _logits: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.cache = Cache(self.model.config)

    @torch.no_grad()
    def logits(self) -> torch.Tensor:
        """Logits [vocabulary] of the token after those so far. There is at least one."""
        context = self.model.config.context
        new = len(self.tokens) - self._read
        if self._read == 0:
            new = min(new, context)
        elif self.cache.length + new > context:
            self.cache.length, new = 0, max(1, context // 2)
            self.read_again += 1
        if new:
            self.model.attend = self.decode if new == 1 else self.prefill
            self._logits = self.model(torch.tensor([self.tokens[-new:]]), self.cache)[0, -1]
        self._read = len(self.tokens)
        return self._logits


def generate(
    stream: Stream, sampler: Sampler, count: int, generator: torch.Generator
) -> Iterator[int]:
    """Draw ``count`` tokens, and add each to the stream before it is yielded."""
    for _ in range(count):
        token = sampler.draw(stream.logits(), generator)
        stream.tokens.append(token)
        yield token


@dataclass
class Compared:
    """Attention that also computes each call with PyTorch, and keeps how far the two are apart.

    Attributes:
        attend: whose results are used.
        layers: calls belong to one layer after the other, from the first.
        differences: by layer, the largest difference so far.
        sizes: by layer, the largest number in PyTorch's results so far.
        calls: so far.
    """

    attend: Callable[..., torch.Tensor]
    layers: int
    differences: list[float] = field(init=False)
    sizes: list[float] = field(init=False)
    calls: int = 0

    def __post_init__(self) -> None:
        self.differences, self.sizes = [0.0] * self.layers, [0.0] * self.layers

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """As ``attend``."""
        out, right = self.attend(q, k, v), by_torch(q, k, v)
        layer = self.calls % self.layers
        difference = float((out - right).abs().max())
        # max() would drop a NaN.
        if not difference <= self.differences[layer]:
            self.differences[layer] = difference
        self.sizes[layer] = max(self.sizes[layer], float(right.abs().max()))
        self.calls += 1
        return out
