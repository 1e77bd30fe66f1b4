"""gpt.py as it is typed: text on stdout, the rest on stderr, bad input named in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt import cli
from gpt.attend import Rung
from gpt.checkpoint import Checkpoint
from gpt.cli import main
from gpt.train import CHECKPOINT, MODEL
from tests.gpt.conftest import TEXT
from tests.support import python
from workbench.toolchain import command

SMALL = ["--layers", "1", "--heads", "2", "--width", "16", "--context", "32", "--window", "16",
         "--batch", "2", "--steps", "4", "--interval", "2", "--warmup", "1"]  # fmt: skip


def run(capsys, *words: object) -> tuple[int, str, str]:
    status = command.status(lambda: main([str(word) for word in words]))
    out, err = capsys.readouterr()
    return status, out, err


def refused(capsys, *words: object) -> str:
    """The one line of a refused command."""
    status, out, err = run(capsys, *words)
    assert (status, out, err.count("\n")) == (2, "", 1), (out, err)
    return err


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text").write_text(TEXT)
    return tmp_path / "text"


# Inference.


def test_samples(capsys, trained: Path):
    words = ["part4", "--inference", "-m", trained / MODEL, "--tokens", 20, "--samples", 2]
    status, out, err = run(capsys, *words, "--prompt", "the ")
    assert status == 0
    samples = out.split("\n" + "-" * 60 + "\n")
    assert [len(sample) for sample in samples] == [24, 24, 0]
    assert all(sample.startswith("the ") for sample in samples[:2])
    assert samples[0] != samples[1]
    assert "attention by cpu_flash on the cpu" in err
    assert "sample 2 of 2: 20 characters," in err and "per second" in err


def test_the_same_seed_writes_the_same_text(capsys, trained: Path):
    words = ["--inference", "-m", trained / MODEL, "--tokens", 30, "--samples", 1]
    one, two, other = (
        run(capsys, part, *words, "--seed", seed)[1]
        for part, seed in (("part1", 5), ("part4", 5), ("part4", 6))
    )
    assert one == two != other


def test_compare_prints_a_row_per_layer(capsys, trained: Path):
    words = ["cpu_simd", "--inference", "-m", trained / MODEL, "--tokens", 9, "--samples", 1]
    _, _, err = run(capsys, *words, "--decode", "cpu_naive", "--compare", "--prompt", "the ")
    rows = [line.split() for line in err.splitlines() if "layer " in line]
    assert [(*row[:3], row[3]) for row in rows] == [
        ("prefill,", "layer", "0", "1"),
        ("prefill,", "layer", "1", "1"),
        ("decode,", "layer", "0", "8"),
        ("decode,", "layer", "1", "8"),
    ]
    assert all(float(row[4]) < 1e-5 < float(row[5]) for row in rows)


def test_compare_ends_with_1_if_the_rung_is_wrong(capsys, trained: Path, monkeypatch):
    words = ["part4", "--inference", "-m", trained / MODEL, "--tokens", 3, "--samples", 1]
    right = Rung.__call__
    monkeypatch.setattr(Rung, "__call__", lambda *args: right(*args) + 0.02)
    assert run(capsys, *words)[0] == 0
    status, _, err = run(capsys, *words, "--compare")
    assert status == 1 and "further than 0.01 from PyTorch" in err


def test_the_models_differ_in_their_number_of_characters(capsys, trained: Path, monkeypatch):
    monkeypatch.setattr(cli, "MODEL", trained / MODEL)
    for name, count in cli.MODELS.items():
        if count <= 256:
            _, out, _ = run(capsys, "torch", "--inference", "-m", name, "--samples", 1)
            assert len(out) == 1 + count + len("\n" + "-" * 60 + "\n")


def test_a_picture_of_two_rungs(capsys, trained: Path, tmp_path: Path):
    pytest.importorskip("matplotlib")
    words = ["cpu_naive", "--inference", "-m", trained / MODEL, "--plot", tmp_path / "t.png"]
    status, out, _ = run(capsys, *words, "--beside", "cpu_simd")
    assert status == 0
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    assert [line.split()[0] for line in out.splitlines()[-4:-1]] == ["16", "32", "64"]


# Training and evaluation.


def test_train_and_evaluate(capsys, text: Path, tmp_path: Path):
    pytest.importorskip("matplotlib")
    out_folder = tmp_path / "out"
    status, out, _ = run(capsys, "train", "--data", text, "--out", out_folder, *SMALL)
    assert status == 0
    assert "step 2: train " in out and "step 4: train " in out
    names = {CHECKPOINT, MODEL, "loss.png"}
    assert {path.name for path in out_folder.iterdir()} == names
    last = Checkpoint.read(out_folder / MODEL).record["evaluations"][-1]
    words = ["evaluate", "--data", text, "-m", out_folder / MODEL, "--context", 16]
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert float(out.split()[0]) == pytest.approx(last["validation"], abs=0.01)


def test_without_data_the_text_is_pythons_documentation(capsys, tmp_path: Path):
    from gpt.text import read

    assert 'The "assert" statement' in read(None)
    assert len(read(None)) > 400_000


@pytest.mark.parametrize("name", [CHECKPOINT, MODEL, "loss.png"])
def test_no_file_is_overwritten(name, capsys, text: Path, tmp_path: Path):
    (tmp_path / name).write_text("mine")
    error = refused(capsys, "train", "--data", text, "--out", tmp_path, *SMALL)
    assert f"has a {name}" in error
    assert (tmp_path / name).read_text() == "mine"


def test_a_checkpoint_that_cannot_be_continued(capsys, text: Path, trained: Path, tmp_path: Path):
    words = ["train", "--data", text, "--resume", "--out"]
    assert "--resume: there is no" in refused(capsys, *words, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for content in ((trained / CHECKPOINT).read_bytes()[:-1], b"junk"):
        (tmp_path / CHECKPOINT).write_bytes(content)
        assert "--resume: " in refused(capsys, *words, tmp_path)
    (tmp_path / CHECKPOINT).write_bytes((trained / MODEL).read_bytes())
    assert "no training to continue" in refused(capsys, *words, tmp_path)


def test_nothing_is_overwritten(capsys, text: Path, trained: Path):
    content = {path: path.read_bytes() for path in trained.iterdir()}
    error = refused(capsys, "train", "--data", text, "--out", trained, *SMALL)
    assert "continue its training with --resume" in error
    error = refused(capsys, "train", "--data", text, "--out", trained, "--resume", "--steps", "99")
    assert "--steps: with --resume everything is as it was set up" in error
    assert content == {path: path.read_bytes() for path in trained.iterdir()}


# Bad input.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["part5"], "part5: expected one of part0, part1"),
        (["flash_mma"], "cpu_simd; --target simulator or gpu has the rungs"),
        (["cpu_simd", "--target", "simulator"], "expected one of part0"),
        (["part4", "-br", "0"], "-br '0' is not a whole number"),
        (["part4", "-bc", "-1"], "-bc '-1' is not a whole number"),
        (["part4", "-N", "100", "-br", "101"], "-br 101: a tile has at most N = 100"),
        (["part4", "-N", "0"], "-N '0' is not a whole number"),
        (["part4", "--seed", "3"], "--seed needs --inference"),
        (["part4", "--inference", "-N", "8"], "-N is for attention alone"),
        (["part4", "--inference", "-m", "shakes7"], "-m shakes7: expected one of shakes128"),
        (["part4", "--inference", "-m", "no.safetensors"], "there is no such checkpoint"),
        (["part4", "--inference", "--beside", "part1"], "--beside names a rung for --plot"),
        (["part4", "--inference", "--decode", "part9"], "part9: expected one of part0"),
        (["4Daccess", "-N", "8"], "4Daccess has no options"),
        (["part1", "-br", "8"], "-br: the tiles of cpu_naive are not for choice"),
        (["part0", "-bc", "8"], "-bc: the tiles of torch are not for choice"),
        (["part4", "-N", "65000"], "-N 65000: the reference, which keeps all scores, takes 135 GB"),
        (["part4", "--inference", "--plot", "x.jpg"], "expected a file name that ends in .png"),
        (["part4", "--inference", "--plot", "x.png", "--samples", "2"], "--samples is for text"),
        (["part4", "--inference", "--plot", "x.png", "--compare"], "--compare is for text"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_arguments(words, says, capsys, trained: Path, monkeypatch):
    if "--plot" in words:
        pytest.importorskip("matplotlib")
    monkeypatch.setattr(cli, "MODEL", trained / MODEL)
    assert says in refused(capsys, *words)


def test_a_prompt_that_the_model_cannot_read(capsys, trained: Path):
    words = ["part4", "--inference", "-m", trained / MODEL]
    assert "'é'" in refused(capsys, *words, "--prompt", "café")
    assert "at least one character" in refused(capsys, *words, "--prompt", "")


def test_a_prompt_longer_than_the_context(capsys, trained: Path):
    words = ["torch", "--inference", "-m", trained / MODEL, "--tokens", 2, "--samples", 1]
    _, out, err = run(capsys, *words, "--prompt", TEXT)
    assert out.startswith(TEXT)
    assert "of the prompt, the last 64 characters are read" in err


def test_it_ends_when_nobody_reads_on(trained: Path):
    words = ["torch", "--inference", "-m", str(trained / MODEL), "--tokens", "1000000"]
    child = python("gpt.py", *words)
    assert child.stdout is not None and child.stderr is not None
    assert child.stdout.read(10)
    child.stdout.close()
    assert child.wait(timeout=60) == 0


def test_a_model_that_is_damaged(capsys, trained: Path, tmp_path: Path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes((trained / MODEL).read_bytes()[:-9])
    assert "damaged" in refused(capsys, "part4", "--inference", "-m", path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"\x89PNG\r\n\xff\xfe", "is not a text in UTF-8: byte 0 is 0x89"),
        (b"text\0text" * 100, "is not a text: character 4 is NUL"),
        (b"short", "4 characters to train on are too few"),
    ],
)
def test_bad_data(content, says, capsys, tmp_path: Path):
    path = tmp_path / "data"
    if content is not None:
        path.write_bytes(content)
    error = refused(capsys, "train", "--data", path, "--out", tmp_path / "out", *SMALL)
    assert says in error and "--data" in error
    assert not (tmp_path / "out").exists()


def test_data_of_other_characters_is_no_text_to_evaluate_with(capsys, trained: Path, tmp_path):
    (tmp_path / "greek").write_text("αβγ" * 1000)
    words = ["evaluate", "--data", tmp_path / "greek", "-m", trained / MODEL, "--context", 16]
    error = refused(capsys, *words)
    assert "--data: the model does not have the character 'α'" in error
