"""Which files make up a ladder."""

import pytest

from workbench import estimate, operators
from workbench.operators.builds import rungs, sources


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_KERNELS", str(tmp_path))
    for name in (
        "attention.cu", "matmul.cu", "softmax.cu", "softmax.cuh", "softmax_backward.cu",
        "softmax_backward_more.cu", "softmax_backwards.cu", "softmax_cub.cu", "softmaxes.cu",
    ):  # fmt: skip
        (tmp_path / name).write_text(name)
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def test_the_files_of_a_ladder(kernels):
    assert names(sources("matmul")) == ["matmul.cu"]
    own = names(sources("softmax"))
    assert own == ["softmax.cu", "softmax_backwards.cu", "softmax_cub.cu"]
    own = names(sources("softmax_backward"))
    assert own == ["softmax_backward.cu", "softmax_backward_more.cu"]


def test_an_estimate_looks_into_its_own_first(kernels):
    for op, others in (("softmax_backward", 2), ("softmax", 3)):
        files = names(estimate.ladder_sources(op))
        assert files[:others] == names(sources(op))
        assert sorted(files) == sorted(path.name for path in kernels.glob("*.cu"))


def test_the_kernels_of_every_rung_are_in_its_ladder_s_files():
    for op in operators.OPERATORS:
        text = "".join(path.read_text() for path in sources(op))
        for rung in rungs(op):
            assert f'{{"{rung.name}",' in text, (op, rung.name)
