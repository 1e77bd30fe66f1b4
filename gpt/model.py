"""The network: nanoGPT's, with attention as an argument.

Token and position embeddings, then layers of attention and an MLP, each after a layer norm and
added to its input (pre-LN); the logits are products with the token embeddings (tied). No biases.
Radford et al., "Language Models are Unsupervised Multitask Learners", section 2.3; Karpathy,
github.com/karpathy/nanoGPT, model.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

# q [B, H, N, D], k and v [B, H, Nk, D] -> [B, H, N, D], causal; the last query sees all keys.
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def torch_attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """PyTorch's attention; one query, or as many as there are keys."""
    return scaled_dot_product_attention(q, k, v, is_causal=q.shape[-2] > 1)


@dataclass(frozen=True)
class Config:
    """The sizes of a model."""

    vocabulary: int  # different tokens
    context: int = 1024  # positions, the most tokens it sees at once
    layers: int = 4
    heads: int = 4
    width: int = 128

    def __post_init__(self) -> None:
        """Raise ValueError unless the sizes fit."""
        for name, size in vars(self).items():
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"{name}: expected a whole number from 1 up, got {size!r}")
        if self.width % self.heads:
            raise ValueError(f"width: expected a multiple of {self.heads} heads, got {self.width}")


class Cache:
    """Keys and values of the positions so far, so that a step computes only its own.

    Attributes:
        keys, values: a tensor [B, H, context, D] per layer.
        length: positions that they hold.
    """

    def __init__(self, config: Config, batch: int = 1) -> None:
        shape = (batch, config.heads, config.context, config.width // config.heads)
        self.keys = [torch.zeros(shape) for _ in range(config.layers)]
        self.values = [torch.zeros(shape) for _ in range(config.layers)]
        self.length = 0

    def extend(
        self, layer: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a layer's k and v [B, H, N, D] of the next N positions; return those of all."""
        end = self.length + k.shape[2]
        self.keys[layer][:, :, self.length : end] = k
        self.values[layer][:, :, self.length : end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class Norm(nn.Module):
    """Layer norm without a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last dimension."""
        return layer_norm(x, self.weight.shape, self.weight)


class Block(nn.Module):
    """Attention, then the MLP."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm_1, self.norm_2 = Norm(width), Norm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(
        self, x: torch.Tensor, attend: Attend, cache: Cache | None, layer: int
    ) -> torch.Tensor:
        """Map x [B, N, width] to the same shape."""
        # [B, N, 3 * width] -> three times [B, H, N, D], views of one tensor.
        q, k, v = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        x = x + self.out(attend(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(gelu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    """Logits of the next token for every position.

    Attributes:
        config: its sizes.
        attend: attention; ``torch_attend`` unless another is set.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.attend: Attend = torch_attend
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.width)

    def initialise(self, seed: int) -> None:
        """Draw the parameters, as GPT-2 does: what adds to the residual stream has less weight.

        But positions start as sinusoids (Vaswani et al., "Attention Is All You Need", section 3.5),
        and are learned from there: a model this small takes long to find out from random numbers
        which positions are neighbours.
        """
        generator = torch.Generator().manual_seed(seed)
        residual = 0.02 / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                std = residual if name.endswith(("out.weight", "down.weight")) else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)
        self.positions.weight.data.copy_(0.03 * sinusoids(self.config.context, self.config.width))

    def forward(self, tokens: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """Logits [B, N, vocabulary] for tokens [B, N], int64.

        They have the positions from 0 on; with a cache those after the ones that it holds, and are
        added to it.
        """
        n = tokens.shape[1]
        first = 0 if cache is None else cache.length
        x = self.tokens(tokens) + self.positions(torch.arange(first, first + n))
        for layer, block in enumerate(self.blocks):
            x = block(x, self.attend, cache, layer)
        if cache is not None:
            cache.length += n
        return self.norm(x) @ self.tokens.weight.mT


def sinusoids(positions: int, width: int) -> torch.Tensor:
    """Sines and cosines [positions, width], with wavelengths from 2 pi to 2 pi * positions."""
    place = torch.arange(positions)[:, None]
    waves = torch.exp(-math.log(positions) * torch.arange(0, width, 2) / width)
    return torch.cat([torch.sin(place * waves), torch.cos(place * waves)], dim=-1)[:, :width]
