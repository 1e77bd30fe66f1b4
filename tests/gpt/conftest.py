"""A small model, trained for a moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt.checkpoint import Checkpoint
from gpt.text import Data
from gpt.train import MODEL, Settings, Training

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
SETTINGS = Settings(
    layers=2,
    heads=2,
    width=32,
    context=64,
    window=32,
    batch=4,
    steps=12,
    warmup=2,
    interval=4,
    learning_rate=1e-2,
)


@pytest.fixture(scope="session")
def data() -> Data:
    return Data.of_text(TEXT)


@pytest.fixture(scope="session")
def trained(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken training."""
    out = tmp_path_factory.mktemp("trained")
    Training.new(SETTINGS, data).run(out, lambda training: None)
    return out


@pytest.fixture
def checkpoint(trained: Path) -> Checkpoint:
    return Checkpoint.read(trained / MODEL)
