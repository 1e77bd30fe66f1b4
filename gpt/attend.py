"""Attention by a rung, as the model and the parts call it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workbench import attention, rungs
from workbench.operators.operator import DEVICES
from workbench.toolchain.errors import UsageError

TORCH = "torch"
# Stanford CS149's assignment, whose parts these are, counts the steps so.
PARTS = {
    "part0": TORCH,
    "part1": "naive",
    "part2": "blocked",
    "part3": "fused_row",
    "part4": "flash",
}


@dataclass(frozen=True)
class Rung:
    """A rung of the attention ladder, or PyTorch's own operations.

    Attributes:
        name: in the ladder's table; or ``torch``.
        target: where it runs, "cpu", "simulator" or "gpu".
        dtype: what it computes in: float32 if it can.
        tiles: whether it takes the sizes of tiles, br and bc.
    """

    name: str
    target: str
    dtype: torch.dtype = torch.float32
    tiles: bool = False

    @property
    def device(self) -> torch.device:
        """Of its tensors."""
        return torch.device(DEVICES[self.target])

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        causal: bool = True,
        scale: float | None = None,
    ) -> torch.Tensor:
        """O [B, H, Nq, D] for q [B, H, Nq, D], k and v [B, H, Nk, D]; float32 on the CPU.

        causal: query i sees the keys 0 .. i + Nk - Nq. scale: None takes 1 / sqrt(D). Raises as
        ``workbench.attention``.
        """
        if self.name == TORCH:
            return by_torch(q, k, v, causal=causal, scale=scale)
        placed = (x.to(self.device, self.dtype) for x in (q, k, v))
        out = self.run(*placed, causal=causal, scale=scale)
        return out.to("cpu", torch.float32)

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        causal: bool,
        scale: float | None,
        br: int | None = None,
        bc: int | None = None,
    ) -> torch.Tensor:
        """The same for tensors on ``device`` and of ``dtype``, as is the result.

        br, bc: queries and keys per tile, for a rung that has the choice.
        """
        tiles = {"br": br, "bc": bc} if self.tiles else {}
        return attention(q, k, v, causal=causal, scale=scale, kernel=self.name, **tiles)


def by_torch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
) -> torch.Tensor:
    """The same by PyTorch's matmul, softmax and matmul."""
    scores = q @ k.mT
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale) if scale != 1 else scores
    if causal:
        first = k.shape[-2] - q.shape[-2]
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(first + 1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v


def choose(word: str, target: str) -> Rung:
    """The rung of a part, or of that name; ``cpu_`` may be left out of a name.

    Builds the target's ladder. Raises UsageError for an unknown name, with those there are.
    """
    name = PARTS.get(word, word)
    if name == TORCH:
        return Rung(TORCH, target)
    ladder = {rung.name: rung for rung in rungs("attention", target)}
    for known in (name, f"cpu_{name}"):
        if known in ladder:
            rung = ladder[known]
            dtype = "float32" if "float32" in rung.dtypes else rung.dtypes[0]
            return Rung(known, target, getattr(torch, dtype), "br" in rung.options)
    others = "; --target simulator or gpu has the rungs of test_attention.py"
    raise UsageError(
        f"{word}: expected one of {', '.join(PARTS)}, or a rung of --target {target}: "
        f"{', '.join(ladder)}{others if target == 'cpu' else ''}"
    )
