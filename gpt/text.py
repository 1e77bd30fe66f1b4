"""The text to train on, and the windows that are cut from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from workbench.toolchain.errors import UsageError

from .tokenizer import Tokenizer

VALIDATION = 0.1  # the share of a text, at its end, that is not trained on


@dataclass(frozen=True)
class Data:
    """A text as tokens.

    Attributes:
        tokenizer: of its characters.
        train: tokens [N], int64.
        validation: those of the last tenth.
        digest: identifies the text.
    """

    tokenizer: Tokenizer
    train: torch.Tensor
    validation: torch.Tensor
    digest: str

    @classmethod
    def of_text(cls, text: str, tokenizer: Tokenizer | None = None) -> Data:
        """The tokens of a text, by default by a tokenizer of its own characters."""
        tokenizer = tokenizer or Tokenizer.of_text(text)
        tokens = tokenizer.encode(text)
        cut = int(len(tokens) * (1 - VALIDATION))
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return cls(tokenizer, tokens[:cut], tokens[cut:], digest)


def read(path: Path | None) -> str:
    """The text of a file; of Python's reference documentation if ``path`` is None.

    Raises UsageError if the file is not a text in UTF-8, or empty.
    """
    if path is None:
        from pydoc_data.topics import topics

        return "\n\n".join(topics[name] for name in sorted(topics))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"--data: {path}: {error.strerror}") from None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"--data: {path} is not a text in UTF-8: byte {error.start} is {raw[error.start]:#x}"
        ) from None
    if "\0" in text:
        raise UsageError(f"--data: {path} is not a text: character {text.index(chr(0))} is NUL")
    if not text:
        raise UsageError(f"--data: {path} is empty")
    return text


def windows(
    tokens: torch.Tensor, batch: int, length: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random windows [batch, length] of tokens, and the token after each of theirs."""
    starts = torch.randint(len(tokens) - length, (batch, 1), generator=generator)
    places = starts + torch.arange(length)
    return tokens[places], tokens[places + 1]
