"""The command line of ``python -m workbench.masks``."""

from __future__ import annotations

import workbench.installed  # noqa: F401 first: it says what to do if the rest is missing

# isort: split

import argparse
import math
import re
from collections.abc import Sequence

from workbench.masks import (
    MOST_STRIDE,
    SYNCS,
    Mask,
    causal,
    describe,
    draw,
    local,
    summary,
    text,
)
from workbench.toolchain import command
from workbench.toolchain.errors import UsageError

SHOWN = 4096  # most queries and most keys


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the mask that the arguments describe, and draw it; return the exit status."""
    asked = _parser().parse_args(arguments)
    queries = asked.queries or asked.keys or (8,)
    keys = asked.keys or queries
    nq, nk = math.prod(queries), math.prod(keys)
    try:
        mask = _mask(asked, queries, keys)
        if asked.draw:
            draw(mask, nq, nk, asked.draw, asked.tiles)
    except ValueError as error:
        raise UsageError(str(error)) from None
    print(text(mask, nq, nk, "·█" if asked.blocks else "01"))
    print(f"{describe(mask)}: {summary(mask.visible(nq, nk), asked.tiles)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    made = command.Parser(
        prog="python -m workbench.masks",
        description="Print an attention mask: a line for each query, 1 for each key that it sees.",
    )
    made.add_argument(
        "kind",
        choices=("full", "causal", "local"),
        help="all keys; those not after the query; those near the query",
    )
    sizes = {
        "--queries": "how many, or rows x columns; default: as for the keys, or 8",
        "--keys": "how many, or rows x columns; default: as for the queries",
    }
    for flag, words in sizes.items():
        made.add_argument(flag, type=_lengths, metavar="N|RxC", help=words)
    made.add_argument(
        "--window",
        type=command.Whole(1),
        metavar="W",
        help="local: keys less than W places away, so 2 W - 1 of them; default: 2",
    )
    made.add_argument(
        "--log2-stride",
        type=command.Whole(0, MOST_STRIDE),
        metavar="S",
        help="local: only keys a multiple of 2**S places away, still 2 W - 1 of them; default: 0",
    )
    made.add_argument("--causal", action="store_true", help="local: hide later keys, too")
    made.add_argument(
        "--sync", choices=SYNCS, help=f"how unequal lengths are aligned; default: {SYNCS[0]}"
    )
    tiles = "count the tiles of BM queries x BN keys that a kernel has to visit"
    made.add_argument("--tiles", type=_tiles, metavar="BM,BN", help=tiles)
    made.add_argument("--blocks", action="store_true", help="print █ and · instead of 1 and 0")
    made.add_argument(
        "--draw", type=command.output, metavar="FILE.png", help="also draw the mask (needs Pillow)"
    )
    return made


def _mask(asked: argparse.Namespace, queries: Sequence[int], keys: Sequence[int]) -> Mask:
    """The mask that was asked for. ValueError if the arguments do not go together."""
    kind = asked.kind
    local_only = {
        "--window": asked.window,
        "--log2-stride": asked.log2_stride,
        "--causal": asked.causal or None,
    }
    unused = [flag for flag, value in local_only.items() if value is not None and kind != "local"]
    unused += ["--sync"] if asked.sync and kind == "full" else []
    if unused:
        raise ValueError(f"{unused[0]}: a {kind} mask does not support it")
    if len(queries) != len(keys):
        few, many = sorted((("--queries", queries), ("--keys", keys)), key=lambda one: len(one[1]))
        shown = "x".join(map(str, many[1]))
        raise ValueError(f"{few[0]}: expected RxC, because {many[0]} is {shown}, got {few[1][0]}")
    sync = asked.sync or SYNCS[0]
    widths = (queries[1], keys[1]) if len(queries) == 2 else (0, 0)
    if kind == "full":
        return Mask(q_width=widths[0], k_width=widths[1])
    if kind == "causal":
        return causal(sync, *widths)
    return local(asked.window or 2, asked.log2_stride or 0, asked.causal, sync, *widths)


def _lengths(word: str) -> tuple[int, ...]:
    sizes = _whole_numbers(word, "x")
    if len(sizes) not in (1, 2) or not 0 < math.prod(sizes) <= SHOWN:
        raise argparse.ArgumentTypeError(
            f"{word!r} is not N or RxC, from 1 to {SHOWN} positions in all"
        )
    return sizes


def _tiles(word: str) -> tuple[int, ...]:
    sizes = _whole_numbers(word, ",")
    if len(sizes) != 2 or not all(0 < size <= SHOWN for size in sizes):
        raise argparse.ArgumentTypeError(
            f"{word!r} is not BM,BN, two whole numbers from 1 to {SHOWN}"
        )
    return sizes


def _whole_numbers(word: str, separator: str) -> tuple[int, ...]:
    """The numbers in a word; none if anything else is in it."""
    parts = word.split(separator)
    if not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        return ()
    return tuple(int(part) for part in parts)


if __name__ == "__main__":
    command.run(main)
