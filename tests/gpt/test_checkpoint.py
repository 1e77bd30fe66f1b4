"""Checkpoints: what is written is read; what is damaged or foreign is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt.checkpoint import ABOUT, Checkpoint
from gpt.train import CHECKPOINT, MODEL
from workbench.toolchain.errors import Failure


def test_what_is_written_is_read(checkpoint: Checkpoint, tmp_path: Path):
    checkpoint.write(tmp_path / "x")
    again = Checkpoint.read(tmp_path / "x")
    pairs = zip(checkpoint.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert again.tokenizer.characters == checkpoint.tokenizer.characters
    assert again.record == checkpoint.record


def test_a_model_is_the_checkpoint_in_float16(trained: Path):
    whole, half = (Checkpoint.read(trained / name) for name in (CHECKPOINT, MODEL))
    pairs = zip(whole.model.parameters(), half.model.parameters(), strict=True)
    assert all(torch.equal(a.half().float(), b) for a, b in pairs)
    assert half.state == {}
    assert all(t.dtype == torch.float16 for t in load_file(trained / MODEL).values())


def rewritten(path: Path, tmp_path: Path, change) -> Path:
    """A copy of a checkpoint whose tensors and description are changed."""
    tensors = load_file(path)
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        about = json.loads(json.loads(file.read(size))["__metadata__"][ABOUT])
    change(tensors, about)
    save_file(tensors, tmp_path / "changed", {ABOUT: json.dumps(about)})
    return tmp_path / "changed"


def _narrow(tensors, about):
    tensors["tokens.weight"] = tensors["tokens.weight"][:, :16].contiguous()


def _drop(tensors, about):
    del tensors["blocks.1.up.weight"]


def _add(tensors, about):
    tensors["bias"] = torch.zeros(3)


def _characters(tensors, about):
    about["characters"] += "!"


def _layers(tensors, about):
    about["config"]["layers"] = 3


def _heads(tensors, about):
    about["config"]["heads"] = 5


def _no_config(tensors, about):
    del about["config"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_narrow, r"expected tokens.weight \[\d+, 32\] .* got \[\d+, 16\]"),
        (_drop, r"expected blocks.1.up.weight \[128, 32\] .* got none"),
        (_add, r"expected bias not to exist .* got \[3\]"),
        (_characters, r"the model has \d+ tokens, its tokenizer \d+"),
        (_layers, r"expected blocks.2.down.weight \[32, 128\] .* got none"),
        (_heads, r"expected a multiple of 5 heads, got 32"),
        (_no_config, r"description of the model is damaged"),
    ],
)
def test_a_file_that_does_not_fit_its_description(change, words, trained: Path, tmp_path: Path):
    path = rewritten(trained / MODEL, tmp_path, change)
    with pytest.raises(Failure, match=words) as raised:
        Checkpoint.read(path)
    assert str(path) in str(raised.value)


def test_files_that_are_no_checkpoint(trained: Path, tmp_path: Path):
    content = (trained / MODEL).read_bytes()
    for name, bad in {
        "empty": b"",
        "text": b"First Citizen:\n" * 20,
        "cut": content[:-1],
        "cut_early": content[: len(content) // 2],
        "header": content[:6],
        "huge": (2**63).to_bytes(8, "little") + content[8:],
    }.items():
        path = tmp_path / name
        path.write_bytes(bad)
        with pytest.raises(Failure, match=f"{name} is not a checkpoint, or damaged"):
            Checkpoint.read(path)
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(Failure, match="not a model that gpt.py train wrote"):
        Checkpoint.read(tmp_path / "foreign")
    with pytest.raises(Failure, match="there is no such checkpoint"):
        Checkpoint.read(tmp_path / "missing")
    with pytest.raises(Failure, match="is a folder"):
        Checkpoint.read(tmp_path)
