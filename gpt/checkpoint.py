"""A model and its tokenizer as one file, and what training needs to go on from it.

The format is safetensors: tensors by name, and texts ("metadata"). Reading a file runs nothing in
it, unlike a pickle. A file is written beside its name and then renamed, so that it is whole
whenever the process ends.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save

from workbench.toolchain.errors import Failure
from workbench.toolchain.files import write_whole

from .model import GPT, Config
from .tokenizer import Tokenizer

# The name of the one text in a file, in JSON: several would stand in random order.
ABOUT = "workbench.gpt"
_STATE = "training."  # begins the names of tensors that only training needs


@dataclass
class Checkpoint:
    """The content of a file.

    Attributes:
        model: with its parameters in float32.
        tokenizer: the characters it was trained on.
        record: facts about its training, all that JSON holds; in a file under "training".
        state: further tensors of the training, by name.
    """

    model: GPT
    tokenizer: Tokenizer
    record: dict[str, Any] = field(default_factory=dict)
    state: dict[str, torch.Tensor] = field(default_factory=dict)

    def write(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the file, the parameters in ``dtype``; whole or not at all. Raises OSError."""
        tensors = {name: p.detach().to(dtype) for name, p in self.model.named_parameters()}
        tensors |= {_STATE + name: tensor for name, tensor in self.state.items()}
        about = {
            "config": dataclasses.asdict(self.model.config),
            "characters": self.tokenizer.characters,
            "training": self.record,
        }
        write_whole(path, save(tensors, {ABOUT: json.dumps(about)}))

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """The content of a file. Raises Failure if it is missing, damaged or of another kind."""
        if os.path.isdir(path):  # of a name that is too long, Path.is_dir() raises
            raise Failure(f"{path} is a folder; expected a checkpoint")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise Failure(f"{path}: there is no such checkpoint") from None
        except (OSError, safetensors.SafetensorError) as error:
            raise Failure(f"{path} is not a checkpoint, or damaged: {error}") from None
        if ABOUT not in metadata:
            raise Failure(f"{path} is not a model that gpt.py train wrote: it has no {ABOUT!r}")
        try:
            about = json.loads(metadata[ABOUT])
            config = Config(**about["config"])
            tokenizer, record = Tokenizer(about["characters"]), about["training"]
        except (KeyError, TypeError, ValueError) as error:
            raise Failure(f"{path}: its description of the model is damaged: {error}") from None
        if len(tokenizer) != config.vocabulary:
            raise Failure(
                f"{path}: the model has {config.vocabulary} tokens, its tokenizer {len(tokenizer)}"
            )
        state = {n.removeprefix(_STATE): t for n, t in tensors.items() if n.startswith(_STATE)}
        parameters = {n: t for n, t in tensors.items() if not n.startswith(_STATE)}
        return cls(_model(path, config, parameters), tokenizer, record, state)


def _model(path: Path, config: Config, tensors: Mapping[str, torch.Tensor]) -> GPT:
    with torch.device("meta"):
        model = GPT(config)
    expected = {name: list(p.shape) for name, p in model.named_parameters()}
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise Failure(
                f"{path}: expected {name} {expected.get(name, 'not to exist')} for its "
                f"description, got {found.get(name, 'none')}"
            )
    floats = {name: tensor.float() for name, tensor in tensors.items()}
    model.load_state_dict(floats, assign=True)
    return model
