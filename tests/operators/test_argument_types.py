"""Arguments of the wrong type: the message names the argument, what was expected and what came."""

from __future__ import annotations

import pytest
import torch

import workbench
from build import inline
from tests.cli.test_check_option import FUNCTIONS
from workbench import attention, matmul, softmax, softmax_backward, transpose

X = torch.ones(4, 4)
CALLS = {**FUNCTIONS, "transpose": transpose}
SOURCE = "#include <cuda_runtime.h>\nvoid run(float* x, int n) {}\nvoid any(void* x) {}\n"


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(X, 0.1, 0, torch.quint8)


def nested() -> torch.Tensor:
    return torch.nested.nested_tensor([X, X])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kernel", [5, b"tiled", ["tiled"], True])
def test_kernel(name, kernel):
    with pytest.raises(TypeError) as error:
        CALLS[name](X, kernel=kernel)
    assert str(error.value) == f"{name}: kernel is {kernel!r}; expected the name of a rung, or None"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (lambda: None, "is None; expected a tensor"),
        (lambda: [[1.0]], "is of type list; expected a tensor"),
        (lambda: 1.0, "is of type float; expected a tensor"),
        (lambda: X.numpy(), "is of type ndarray; expected a tensor"),
        (quantized, "is a quantized tensor; expected a dense one"),
        (nested, "is a nested tensor; expected a dense one"),
    ],
    ids=["none", "list", "number", "numpy", "quantized", "nested"],
)
def test_tensors(name, tensor, says):
    first = {"softmax_backward": "dy", "attention": "q"}.get(name, "a" if "matmul" in name else "x")
    with pytest.raises(TypeError) as error:
        CALLS[name](tensor())
    assert str(error.value) == f"{name}: {first} {says}"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: matmul(X, None), "matmul: b is None; expected a tensor"),
        (lambda: matmul(X, X, out=[1]), "matmul: out is of type list; expected a tensor"),
        (lambda: matmul(X, X, bias=2.0), "matmul: bias is of type float; expected a tensor"),
        (lambda: matmul(X, X, alpha="2"), "matmul: alpha is '2'; expected a number"),
        (lambda: attention(X, X, None), "attention: v is None; expected a tensor"),
        (lambda: softmax(X, scale="2"), "softmax: scale is '2'; expected a number"),
        (lambda: softmax(X, scale=None), "softmax: scale is None; expected a number"),
        (lambda: attention(X, X, X, scale=[1]), r"attention: scale is [1]; expected a number"),
        (lambda: workbench.rungs(5), "op is 5; expected one of matmul, softmax, "),
        (lambda: workbench.rungs([]), "op is []; expected one of matmul, softmax, "),
    ],
)
def test_other_arguments(call, message):
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    assert str(error.value).startswith(message)


def test_what_may_be_none():
    softmax_backward(X, X, dlse=None)
    attention(X[None, None], X[None, None], X[None, None], scale=None)
    matmul(X, X, kernel=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "n" * 300}, "name has 300 characters; expected at most 100"),
        ({"name": 5}, "name is 5; expected a str"),
        ({"name": "a b"}, "name is 'a b'; expected letters, digits and underscores"),
        ({"functions": 5}, "functions is 5; expected the names of launchers"),
        ({"functions": [None]}, "functions is [None]; expected the names of launchers"),
        ({"functions": ["run", 5]}, "functions is ['run', 5]; expected the names of launchers"),
        ({"cuda_source": 5}, "cuda_source is of type int; expected a str"),
        ({"cuda_source": b"x"}, "cuda_source is of type bytes; expected a str"),
        ({"extra_cuda_cflags": "-O3"}, "extra_cuda_cflags is '-O3'; expected a list of str"),
        ({"extra_include_paths": "/x"}, "extra_include_paths is '/x'; expected a list of str"),
        ({"extra_include_paths": 5}, "extra_include_paths is 5; expected a list of str"),
    ],
)
def test_inline(changes, message):
    arguments = {"cuda_source": SOURCE, "functions": "run", "target": "simulator"} | changes
    with pytest.raises((TypeError, ValueError)) as error:
        inline(**arguments)
    assert str(error.value).startswith(message)


@pytest.mark.filterwarnings("ignore")
def test_tensors_of_inline_functions():
    module = inline(SOURCE, ["run", "any"], target="simulator")
    for tensor, kind in ((quantized(), "quantized"), (nested(), "nested")):
        with pytest.raises(TypeError, match=f"x is a {kind} tensor; expected a dense one for void"):
            module.any(tensor)
    with pytest.raises(TypeError, match="run: n is None; expected an integer"):
        module.run(X, None)
