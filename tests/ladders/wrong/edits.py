"""The mistakes of test_wrong_kernels.py: replacements in ladder files.

Every edit replaces exact text and fails loudly if that text is missing. Edits of different rungs
share a build. Those of each operator are in a module of its own.
"""

import functools
import re
from collections.abc import Iterable

from tests.ladders.wrong import attention, matmul, softmax, transpose
from tests.ladders.wrong.edit import Edit
from tests.ladders.wrong.matmul import CHUNKS
from tests.ladders.wrong.softmax import LONG_ROW
from workbench.toolchain import kernels_dir

BARRIER = re.compile(
    r"(?:__sync(?:threads|warp)|cluster_(?:sync|wait)|cp_async_wait<[^>]+>)\(\);.*"
)
SHAPES = {  # with more than one tile each way and ragged edges
    "matmul": "M=70,N=75,K=85",
    "softmax": "rows=9,cols=2100",
    "softmax_backward": "rows=9,cols=2100",
    "attention": attention.SHAPE,
    "transpose": "M=80,N=144",
}
OPERATORS = (matmul, softmax, attention, transpose)


def _all(kind: str) -> tuple[Edit, ...]:
    return tuple(edit for module in OPERATORS for edit in getattr(module, kind, ()))


SWAPPED = _all("SWAPPED")
UNGUARDED = _all("UNGUARDED")
WRONG_FORMULA = _all("WRONG_FORMULA")
TOO_MUCH = _all("TOO_MUCH")  # the table or `declines` accepts inputs that the kernel cannot take

# The rungs that run the barriers of a file: the one whose kernel has it, otherwise all of these, of
# which the first is checked.
BARRIER_USERS = {
    "matmul.cu": ("matmul/tiled", "matmul/tiled_16"),
    "matmul_thread_tiles.cu": ("matmul/thread_tile_1d", "matmul/thread_tile"),
    "matmul_vectorized.cu": ("matmul/vectorized", "matmul/conflict_free"),
    "matmul_warp_tiles.cu": ("matmul/warp_tiles",),
    "matmul_warp_tiles.cuh": ("matmul/async", "matmul/split_k"),
    "matmul_wmma.cu": ("matmul/wmma",),
    "matmul_mma.cuh": tuple(f"matmul/mma{r}" for r in ("", "_swizzled", "_pipelined", "_tuned")),
    "matmul_mma_ring.cuh": ("matmul/mma_pipelined", "matmul/mma_tuned"),
    "matmul_mma_pipelined.cu": ("matmul/mma_pipelined",),
    "softmax.cu": ("softmax/block_per_row", "softmax/coarsened"),
    "softmax_cub.cu": ("softmax/cub",),
    "softmax_cluster.cu": ("softmax/cluster",),
    "softmax_cluster_pipelined.cu": ("softmax/cluster_pipelined",),
    "softmax_backward_cluster.cu": ("softmax_backward/cluster",),
    "reduce.cuh": (
        "softmax_backward/block_per_row",
        "softmax_backward/vectorized",
        "softmax_backward/row_in_registers",
        "softmax/warp_shuffles",
        "softmax/online",
        "softmax/vectorized",
        "softmax/row_in_registers",
        "softmax/cluster",
        "softmax/cluster_pipelined",
        "attention/fused_row",
        "attention/blocked",
    ),
    "attention_blocked.cu": ("attention/blocked",),
    "attention_fused_row.cu": ("attention/fused_row",),
    "attention_flash_v1.cu": ("attention/flash_v1",),
    "attention_warp_dot.cu": ("attention/warp_dot",),
    "attention_flash.cu": ("attention/flash",),
    "attention_flash_registers.cu": ("attention/flash_registers",),
    "attention_flash_mma.cu": ("attention/flash_mma",),
    "attention_flash_mma_pipelined.cu": ("attention/flash_mma_pipelined",),
    "attention_flash_split_kv.cu": ("attention/flash_split_kv",),
    "attention_mma.cuh": ("attention/flash_mma_pipelined", "attention/flash_mma"),
    "transpose.cu": tuple(f"transpose/{rung}" for rung in ("tiled", "padded", "swizzled")),
    "transpose_vectorized.cu": ("transpose/vectorized",),
}


def _shape(op: str, rung: str) -> str:
    """What a rung without a barrier is checked on; empty for SHAPES."""
    if rung.startswith("cluster"):
        return LONG_ROW
    if rung == "flash_split_kv":
        return attention.FEW
    return (CHUNKS if op == "matmul" else attention.CAUSAL) if "mma" in rung else ""


@functools.cache
def barriers() -> tuple[Edit, ...]:
    """The removal of each barrier and each wait for copies, in turn."""
    edits = []
    for file, rungs in BARRIER_USERS.items():
        text = (kernels_dir() / file).read_text()
        for match in BARRIER.finditer(text):
            checked, *others = [r for r in rungs if _in_kernel(text, match.start(), r)] or rungs
            op, _, rung = checked.partition("/")
            behind = _before(text, match.start())
            shape = attention.NO_KEYS if "even without a tile" in match[0] else _shape(op, rung)
            edits.append(
                Edit(op, rung, match[0], "", behind, tuple(others), shape=shape, file=file)
            )
    assert len(edits) >= 18
    return tuple(edits)


def _before(text: str, at: int) -> str:
    """What stands before a position, as much as nowhere else does: barriers look alike."""
    length = 200
    while text.count(text[max(0, at - length) : at]) > 1:
        length *= 2
    return text[max(0, at - length) : at]


def _in_kernel(text: str, at: int, rung: str) -> bool:
    """Whether a position is in a rung's kernel. ``rung``: operator/name."""
    start = re.search(rf" {rung.replace('/', '_')}_kernel\(\s*const", text)
    return start is not None and start.start() < at < text.find("\n}", start.start())


EACH = 3  # without --full, one of this many barriers is removed,
FIRST = 1  # and what fits into this many builds is edited


# Left out of the copies of the kernels: no edit needs it, and it takes most of the time.
CUB = '    {"cub", softmax_cub},\n'
LEFT_OUT = {
    "matmul_mma.cuh": (
        "  if (p.A.dtype == DType::bfloat16) return run(bf16());\n  return run(float());\n",
        "  if (a_along_k && b_along_k) return run(k, k);\n",
        "    if (b_along_k) return run(outer, k);\n    return run(outer, outer);\n",
    ),
    "matmul_mma.cu": ("  if (p.A.dtype == DType::int8) return launch_mma<int8_t>(p, stream);\n",),
    "attention.cuh": (
        "  if (p.Q.dtype == DType::float64) return run(double());\n",
        "  if (p.Q.dtype == DType::float16) return run(fp16());\n",
        "  if (p.Q.dtype == DType::bfloat16) return run(bf16());\n",
    ),
    "attention_mma.cuh": ("  run(bf16());\n",),
    "attention_warp_dot.cu": ("  if (D <= 128) return run(std::integral_constant<int, 128>());\n",),
    "attention_flash.cu": ("  if (D <= 128) return run(std::integral_constant<int, 128>());\n",),
    "attention_flash_mma.cu": (
        "    if (larger_D(p) <= 128) return run(FlashMmaShape<T, 128>());\n",
        "    run(FlashMmaShape<T, 256>());\n",
    ),
    "attention_flash_mma_pipelined.cu": (
        "    if (larger_D(p) <= 128) return run(PipelinedShape<T, 128>());\n",
        "    run(PipelinedShape<T, 256>());\n",
    ),
    "attention_flash_split_kv.cu": (
        "    if (larger_D(p) <= 128) return run(SplitShape<T, 128>());\n",
        "    run(SplitShape<T, 256>());\n",
    ),
    "softmax.cu": (CUB,),
    "softmax_vectors.cuh": (
        "    case DType::float64:\n      return run(double());\n",
        "    case DType::float16:\n      return run(fp16());\n",
        "    case DType::bfloat16:\n      return run(bf16());\n",
    ),
}


def copies(edits: Iterable[Edit]) -> dict[str, str]:
    """The files that a build of these edits needs, by name, still unedited."""
    cub = any(edit.source == "softmax_cub.cu" for edit in edits)
    texts = {}
    for file in kernels_dir().iterdir():
        text = file.read_text()
        for part in LEFT_OUT.get(file.name, ()):
            assert part in text, f"{file.name} has no {part!r}: update this test"
            text = text if cub and part == CUB else text.replace(part, "")
        texts[file.name] = text
    if not cub:
        del texts["softmax_cub.cu"]
    return texts


def edited(texts: dict[str, str], edits: Iterable[Edit]) -> dict[str, str]:
    """The files that the edits change, after the edits."""
    changed: dict[str, str] = {}
    for edit in edits:
        changed[edit.source] = edit.apply(changed.get(edit.source, texts[edit.source]))
    return changed


def builds(edits: Iterable[Edit]) -> list[list[Edit]]:
    """Edits packed into as few builds as possible: no two in a build change the same rung."""
    packed: list[list[Edit]] = []
    for edit in edits:
        for build in packed:
            if not any(edit.changed() & other.changed() for other in build):
                build.append(edit)
                break
        else:
            packed.append([edit])
    return packed


def of_fast_tier() -> set[Edit]:
    """What is edited without --full: every kind of mistake, but not in every rung."""
    edits = [*SWAPPED, *WRONG_FORMULA, *UNGUARDED, *TOO_MUCH, *barriers()[::EACH]]
    return {edit for build in builds(edits)[:FIRST] for edit in build}
