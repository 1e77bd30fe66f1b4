"""torch.nn modules whose kernels are a ladder's."""

from __future__ import annotations

import torch

from workbench.operators.attention import attention
from workbench.operators.definitions import text


class MultiHeadAttention(torch.nn.Module):
    """Self-attention with several heads: one projection to Q, K and V, attention, one back.

    The heads are views of the first projection's result: [B, heads, N, D], with rows (num_heads +
    2 * num_kv_heads) * D elements apart, which the kernels take as they are. Only their output is
    copied, to put a position's heads side by side.

    There is no gradient: the operator has no backward, and raises RuntimeError if the input or a
    parameter requires grad, as parameters do at first. Call the module under ``torch.no_grad()``.

    The formula is that of "Attention Is All You Need" (3.2.2), without biases.

    Attributes:
        qkv: torch.nn.Linear; the rows of its weight are Q's, then K's, then V's, head by head.
        out: torch.nn.Linear.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        causal: bool = False,
        kernel: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the two projections, initialised as ``torch.nn.Linear`` is.

        Args:
            embed_dim: channels C of the input and the output, a multiple of ``num_heads``; a head
                has D = C / num_heads of them.
            num_heads: of Q.
            num_kv_heads: of K and V, a divisor of ``num_heads``; each serves num_heads /
                num_kv_heads adjacent heads of Q. None: as many as Q has.
            causal: position i sees the positions up to i.
            kernel: a rung of ``rungs("attention")``; None takes the last that accepts the input.
            device: of the parameters.
            dtype: of the parameters, one that the rung supports.

        Raises:
            ValueError: naming the argument, what was expected and what was given.
        """
        super().__init__()
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "num_kv_heads": kv_heads}
        for name, size in sizes.items():
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"{name}: expected a whole number from 1 up, got {size!r}")
        if embed_dim % num_heads:
            raise ValueError(
                f"embed_dim: expected a multiple of num_heads = {num_heads}, got {embed_dim}"
            )
        if num_heads % kv_heads:
            raise ValueError(
                f"num_kv_heads: expected a divisor of num_heads = {num_heads}, got {kv_heads}"
            )
        self.embed_dim, self.num_heads, self.num_kv_heads = embed_dim, num_heads, kv_heads
        self.head_dim = embed_dim // num_heads
        self.causal, self.kernel = causal, kernel
        rows = (num_heads + 2 * kv_heads) * self.head_dim
        self.qkv = torch.nn.Linear(embed_dim, rows, bias=False, device=device, dtype=dtype)
        self.out = torch.nn.Linear(embed_dim, embed_dim, bias=False, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attention of every position of x with those that it sees.

        Args:
            x: [B, N, C].

        Returns:
            [B, N, C].

        Raises:
            ValueError: another shape.
            RuntimeError: from the projections or the operator, as for a gradient.
        """
        if x.dim() != 3 or x.shape[2] != self.embed_dim:
            raise ValueError(f"x: expected [B, N, {self.embed_dim}], got {text(x)}")
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        q, k, v = heads.split((self.num_heads, self.num_kv_heads, self.num_kv_heads), dim=1)
        # Its result is always a pair so.
        o, _ = attention(q, k, v, causal=self.causal, kernel=self.kernel, return_lse=True)
        return self.out(o.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        """What ``print`` shows, in addition to the projections."""
        words = f"{self.embed_dim}, {self.num_heads}, num_kv_heads={self.num_kv_heads}"
        return f"{words}, causal={self.causal}, kernel={self.kernel!r}"
