"""Characters as numbers: a token is a character."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from workbench.toolchain.errors import Failure


class Tokenizer:
    """Numbers the characters of a vocabulary in their order.

    Attributes:
        characters: the vocabulary, as one string.
    """

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self._numbers = {character: i for i, character in enumerate(characters)}

    @classmethod
    def of_text(cls, text: str) -> Tokenizer:
        """The tokenizer for a text: its characters, sorted."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> torch.Tensor:
        """Tokens [N], int64, of a text. Raises Failure for a character it does not have."""
        unknown = sorted({character for character in text if character not in self._numbers})
        if unknown:
            raise Failure(
                f"the model does not have the character {unknown[0]!r}; its {len(self)} are "
                f"{self.characters!r}"
            )
        return torch.tensor([self._numbers[character] for character in text], dtype=torch.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of some tokens."""
        return "".join(self.characters[int(token)] for token in tokens)
