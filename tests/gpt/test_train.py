"""Training: it learns, goes on bit for bit, survives kill -9, and refuses what does not fit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gpt.checkpoint import Checkpoint
from gpt.cli import MODEL as SHIPPED
from gpt.model import GPT, Config
from gpt.text import Data, windows
from gpt.train import CHECKPOINT, MODEL, Settings, Training, evaluate
from tests.gpt.conftest import SETTINGS, TEXT
from tests.support import finished, python
from workbench.toolchain.errors import Failure, UsageError


class Stopped(Exception):
    """The process has ended, as by a kill."""


def stop_at(step: int):
    def report(training: Training) -> None:
        if training.step == step:
            raise Stopped

    return report


def test_it_learns(data: Data, trained: Path):
    record = Checkpoint.read(trained / MODEL).record
    assert [found["step"] for found in record["evaluations"]] == [4, 8, 12]
    random = math.log(len(data.tokenizer))
    losses = [found["validation"] for found in record["evaluations"]]
    assert losses[-1] < losses[0] < random + 0.2
    assert losses[-1] < random - 0.5


@pytest.mark.parametrize("step", [4, 7, 9])
def test_resumed_training_equals_the_unbroken_one(step, data: Data, trained: Path, tmp_path: Path):
    with pytest.raises(Stopped):
        Training.new(SETTINGS, data).run(tmp_path, stop_at(step))
    training = Training.resumed(tmp_path / CHECKPOINT, data)
    assert training.step == step - step % SETTINGS.interval
    training.run(tmp_path, lambda training: None)
    for name in (CHECKPOINT, MODEL):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_a_killed_process_loses_no_more_than_the_interval(tmp_path: Path, one_thread: None):
    """By kill -9 right after the first checkpoint has appeared, then --resume: bit for bit."""
    interval, steps, out = 5, 120, tmp_path / "out"
    (tmp_path / "text").write_text(TEXT)
    words = ["train", "--data", str(tmp_path / "text"), "--out", str(out)]
    small = {name: getattr(SETTINGS, name) for name in ("layers", "heads", "width", "context")}
    small |= {"window": 32, "batch": 4, "warmup": 2, "interval": interval, "steps": steps}
    flags = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    child = python("gpt.py", *words, *flags, OMP_NUM_THREADS="1")
    assert child.stdout is not None
    lines = iter(child.stdout.readline, "")
    reached = next(int(line.split()[1].rstrip(":")) for line in lines if line.startswith("step "))
    child.kill()
    child.wait()
    data = Data.of_text(TEXT)
    resumed = Training.resumed(out / CHECKPOINT, data)
    assert reached <= resumed.step < steps
    status, _, err = finished(python("gpt.py", *words, "--resume", OMP_NUM_THREADS="1"))
    assert status == 0, err
    (tmp_path / "unbroken").mkdir()
    Training.new(resumed.settings, data).run(tmp_path / "unbroken", lambda training: None)
    for name in (CHECKPOINT, MODEL):
        assert (out / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as the processes of a test: sums depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_no_half_written_file_replaces_a_checkpoint(checkpoint, trained, tmp_path, monkeypatch):
    path = tmp_path / MODEL
    path.write_bytes((trained / MODEL).read_bytes())

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpt.checkpoint.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(path)
    assert path.read_bytes() == (trained / MODEL).read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_training_goes_on_only_with_its_own_text(trained: Path):
    with pytest.raises(UsageError, match="another text"):
        Training.resumed(trained / CHECKPOINT, Data.of_text(TEXT + "x"))


def test_a_model_is_no_training(data: Data, trained: Path):
    with pytest.raises(Failure, match="no training to continue"):
        Training.resumed(trained / MODEL, data)


def test_a_loss_that_is_not_finite_ends_the_training(data: Data, tmp_path: Path):
    training = Training.new(dataclasses.replace(SETTINGS, learning_rate=1e30), data)
    with pytest.raises(Failure, match="lower --learning-rate"):
        training.run(tmp_path, lambda training: None)


def test_learning_rate():
    settings = Settings(steps=1000, warmup=100, learning_rate=1.0)
    assert settings.rate(0) == pytest.approx(0.01)
    assert settings.rate(99) == settings.rate(100) == 1.0
    assert settings.rate(550) == pytest.approx(0.55)
    assert settings.rate(1000) == pytest.approx(0.1)


def test_some_steps_have_long_windows():
    settings = Settings(long=0.25, window=256, context=1024, batch=32)
    assert [settings.windows(step) for step in range(4)] == [(32, 256)] * 3 + [(8, 1024)]
    lengths = [settings.windows(step)[1] for step in range(1000)]
    assert lengths.count(1024) == 250
    assert dataclasses.replace(settings, context=128).windows(0) == (32, 128)
    for long, length in ((0.0, 256), (1.0, 1024)):
        lengths = [dataclasses.replace(settings, long=long).windows(i)[1] for i in range(9)]
        assert set(lengths) == {length}


def test_windows_are_of_the_text_and_followed_by_the_next_token():
    tokens = torch.arange(50)
    generator = torch.Generator().manual_seed(0)
    given, following = windows(tokens, 500, 10, generator)
    assert torch.equal(following, given + 1)
    assert (int(given.min()), int(following.max())) == (0, 49)


def test_the_loss_of_an_evaluation_is_that_of_each_window():
    model = GPT(Config(5, context=8, layers=1, heads=1, width=4))
    model.initialise(0)
    tokens = torch.randint(5, (35,), generator=torch.Generator().manual_seed(1))
    losses = []
    for start in (0, 8, 16, 24):
        logits = model(tokens[None, start : start + 8])[0].double()
        log_p = logits - logits.exp().sum(-1, keepdim=True).log()
        losses += [-log_p[i, tokens[start + i + 1]].item() for i in range(8)]
    assert evaluate(model, tokens, 8) == pytest.approx(sum(losses) / len(losses))


def test_the_shipped_model():
    """Its size is nanoGPT's: 0.80 million parameters, and positions."""
    shipped = Checkpoint.read(SHIPPED)
    assert SHIPPED.stat().st_size <= 2_000_000
    assert shipped.model.config == Config(65, context=1024, layers=4, heads=4, width=128)
    without_positions = sum(p.numel() for p in shipped.model.parameters()) - 1024 * 128
    assert without_positions == 795_904
    assert shipped.record["evaluations"][-1]["validation"] <= 1.6
    assert shipped.record["step"] == shipped.record["settings"]["steps"]
