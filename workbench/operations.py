"""The operators, each described once: matmul, softmax (workbench.row_operations), attention.

Checks, benchmarks and tests loop over an operation's ladder (``workbench.rungs(name)``), so a
rung that is added to a ladder's table is tested, timed and listed without an edit here.
"""

from __future__ import annotations

import functools
import math

from workbench import ops, references, tolerances
from workbench.problems import Arrangement, Case, Expected, Operation, Tensors
from workbench.row_operations import SOFTMAX, SOFTMAX_BACKWARD
from workbench.shapes import Shape, ShapeKeys

# matmul: C = A B


def _matmul_inputs(case: Case, arrangement: Arrangement) -> dict[str, tuple[int, ...]]:
    m, n, k = case.shape["M"], case.shape["N"], case.shape["K"]
    shapes = {"a": (m, k), "b": (n, k) if arrangement.b_transposed else (k, n)}
    return {
        name: shape if name in arrangement.shared else (*arrangement.batch, *shape)
        for name, shape in shapes.items()
    }


def _matmul_outputs(case: Case, arrangement: Arrangement) -> dict[str, tuple[int, ...]]:
    return {"out": (*arrangement.batch, case.shape["M"], case.shape["N"])}


def _matmul_launch(target: str, given: Tensors, out: Tensors, case: Case, kernel: str) -> None:
    transposed = MATMUL.arrangement(case).b_transposed
    ops.call(target, "matmul_out", given["a"], given["b"], out["out"], transposed, kernel)


def _matmul_expect(given: Tensors, case: Case) -> dict[str, Expected]:
    args = given["a"], given["b"], MATMUL.arrangement(case).b_transposed
    return {"out": Expected(references.matmul(*args), tolerances.matmul(*args))}


def _matmul_flops(shape: Shape) -> int:
    return 2 * math.prod(shape.numbers())


def _matmul_bytes(case: Case) -> int:
    m, n, k = case.shape.numbers()
    return case.itemsize * (m * k + k * n + m * n)


MATMUL = Operation(
    name="matmul",
    keys=ShapeKeys(("M", "N", "K")),
    arrangements={
        "nn": Arrangement(),
        "nt": Arrangement(b_transposed=True),
        "batched3": Arrangement(batch=(3,)),
        "batched4": Arrangement(batch=(2, 3)),
        "batched4_nt": Arrangement(batch=(2, 3), b_transposed=True),
        "shared_b": Arrangement(batch=(3,), shared=frozenset("b")),
        "shared_b_nt": Arrangement(batch=(3,), shared=frozenset("b"), b_transposed=True),
        "padded": Arrangement({"a": "padded", "b": "padded", "out": "padded"}),
        "padded_nt": Arrangement(
            {"a": "padded", "b": "padded", "out": "padded"}, b_transposed=True
        ),
        "padded_batch": Arrangement({"a": "padded", "b": "padded", "out": "padded"}, (3,)),
        "padded_a_nt": Arrangement({"a": "padded"}, b_transposed=True),
        "padded_out": Arrangement({"out": "padded"}),
        "offset": Arrangement({"a": "offset", "b": "offset", "out": "offset"}),
        "huge_a": Arrangement({"a": "huge"}),
        "huge_b": Arrangement({"b": "huge"}),
        "huge_b_nt": Arrangement({"b": "huge"}, b_transposed=True),
        "huge_out": Arrangement({"out": "huge"}),
        "huge_batch": Arrangement({"a": "huge", "out": "huge"}, (2,)),
        "beyond_grid": Arrangement(batch=(65537,)),  # a grid has 65535 blocks along z
    },
    input_shapes=_matmul_inputs,
    output_shapes=_matmul_outputs,
    launch=_matmul_launch,
    expect=_matmul_expect,
    flops=_matmul_flops,
    ideal_bytes=_matmul_bytes,
    defaults={
        "simulator": ("M=256,N=256,K=256",),
        "gpu": tuple(f"M={n},N={n},K={n}" for n in (1024, 2048, 4096, 8192)),
    },
    edges=(
        ("M=134,N=139,K=85", "padded_out", "integers"),
        ("M=75,N=70,K=85", "padded_a_nt", "integers"),
        ("M=35,N=70,K=37", "padded_batch", "randn"),
    ),
)


# attention: O = softmax(scale Q K^T) V


def _attention_inputs(case: Case, arrangement: Arrangement) -> dict[str, tuple[int, ...]]:
    b, h, nq, nk, d = (case.shape[key] for key in ATTENTION.keys.required)
    return {"q": (b, h, nq, d), "k": (b, h, nk, d), "v": (b, h, nk, d)}


def _attention_outputs(case: Case, arrangement: Arrangement) -> dict[str, tuple[int, ...]]:
    b, h, nq, _, d = (case.shape[key] for key in ATTENTION.keys.required)
    return {"out": (b, h, nq, d), "lse": (b, h, nq)}


def is_causal(shape: Shape) -> bool:
    """Whether an attention shape says ``causal=1``."""
    return dict(shape.sizes).get("causal", 0) != 0


def attention_scale(case: Case) -> float:
    """The scale of an attention case."""
    return references.default_scale(case.shape["D"]) if case.scale is None else case.scale


def _attention_launch(target: str, given: Tensors, out: Tensors, case: Case, kernel: str) -> None:
    ops.call(
        target,
        "attention_out",
        given["q"],
        given["k"],
        given["v"],
        out["out"],
        out["lse"],
        is_causal(case.shape),
        attention_scale(case),
        kernel,
    )


def _attention_expect(given: Tensors, case: Case) -> dict[str, Expected]:
    args = given["q"], given["k"], given["v"], is_causal(case.shape), case.scale
    names = ("out", "lse")
    both = zip(references.attention(*args), tolerances.attention(*args), strict=True)
    return {name: Expected(*pair) for name, pair in zip(names, both, strict=True)}


def visible_pairs(shape: Shape) -> int:
    """How many (query, key) pairs one head computes: all, or those a causal mask leaves."""
    nq, nk = shape["Nq"], shape["Nk"]
    if not is_causal(shape):
        return nq * nk
    first = nk - nq + 1  # keys the first query sees, if positive
    start = max(0, -first + 1)
    rows = nq - start  # queries that see any key
    return rows * (2 * (first + start) + rows - 1) // 2


def _attention_flops(shape: Shape) -> int:
    return 4 * shape["B"] * shape["H"] * shape["D"] * visible_pairs(shape)


def _attention_bytes(case: Case) -> int:
    shape = case.shape
    rows = 2 * shape["Nq"] + 2 * shape["Nk"]
    elements = rows * shape["D"] + shape["Nq"]
    return case.itemsize * shape["B"] * shape["H"] * elements


ATTENTION = Operation(
    name="attention",
    keys=ShapeKeys(("B", "H", "Nq", "Nk", "D"), ("causal",)),
    arrangements={
        "contiguous": Arrangement(),
        "heads_inside": Arrangement(dict.fromkeys(("q", "k", "v", "out"), "heads_inside")),
        "padded": Arrangement(dict.fromkeys(("q", "k", "v", "out"), "padded")),
        "mixed": Arrangement({"q": "padded", "k": "heads_inside"}),
        "mixed_out": Arrangement({"v": "padded", "out": "heads_inside"}),
        "offset": Arrangement(dict.fromkeys(("q", "k", "v", "out"), "offset")),
        "huge_q": Arrangement({"q": "huge"}),
        "huge_k": Arrangement({"k": "huge"}),
        "huge_v": Arrangement({"v": "huge"}),
        "huge_out": Arrangement({"out": "huge"}),
    },
    input_shapes=_attention_inputs,
    output_shapes=_attention_outputs,
    launch=_attention_launch,
    expect=_attention_expect,
    flops=_attention_flops,
    ideal_bytes=_attention_bytes,
    defaults={
        "simulator": ("B=1,H=2,Nq=256,Nk=256,D=64", "B=1,H=2,Nq=256,Nk=256,D=64,causal=1"),
        "gpu": tuple(
            f"B=4,H=16,Nq={n},Nk={n},D=64{causal}"
            for n in (1024, 4096)
            for causal in ("", ",causal=1")
        ),
    },
    edges=(
        ("B=1,H=2,Nq=70,Nk=139,D=32", "padded", "spiky"),
        ("B=2,H=2,Nq=70,Nk=100,D=64,causal=1", "mixed", "randn"),
        ("B=2,H=2,Nq=100,Nk=40,D=128,causal=1", "mixed_out", "randn"),
    ),
)

OPERATIONS = {
    operation.name: operation for operation in (MATMUL, SOFTMAX, SOFTMAX_BACKWARD, ATTENTION)
}


@functools.lru_cache(maxsize=2)
def expected(name: str, case: Case, device: str) -> dict[str, Expected]:
    """The references of an operation's case, computed on ``device`` and kept for the next rung."""
    operation = OPERATIONS[name]
    case = operation.distinct(case)
    tensors = {key: tensor.to(device) for key, tensor in operation.values(case).items()}
    outputs = operation.expect(tensors, case)
    if case.atol is None:
        return outputs
    return {
        key: Expected(
            value.reference,
            value.allowed.minimum(case.atol + case.rtol * value.reference.abs()),
        )
        for key, value in outputs.items()
    }
