"""--watch: what is printed after a save, whatever the save does."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from tests.support import REPO
from workbench.cli import recorded, watch
from workbench.cli.main import main
from workbench.history import History, reading
from workbench.operators import builds
from workbench.operators.transpose import transpose
from workbench.toolchain import ptx_text

STORE = "tile.y[n * p.ldy + m] = tile_smem[threadIdx.x][i ^ threadIdx.x];"
ARGUMENTS = ("--watch", "--target", "simulator")
SAMPLED = ("--shape", "M=256,N=512", "--sample", "4")
Edit = Callable[[], None]


@pytest.fixture
def watching(
    transpose_kernels, tmp_path, monkeypatch, capsys
) -> Callable[..., tuple[int, list[str]]]:
    """Runs --watch with edits in the place of an editor; its blocks, one per edit, and the rest."""

    def run(edits: Sequence[Edit], *more: str) -> tuple[int, list[str]]:
        printed = []

        def saves(places: Sequence[Path]) -> Iterator[list[Path]]:
            assert transpose_kernels in places
            for edit in edits:
                printed.append(capsys.readouterr().out)
                edit()
                yield [transpose_kernels / "transpose.cu"]
            printed.append(capsys.readouterr().out)
            raise KeyboardInterrupt

        monkeypatch.setattr(watch, "saves", saves)
        monkeypatch.setattr(recorded, "cache_dir", lambda: tmp_path)
        sampled = () if "--check" in more else SAMPLED
        status = main("transpose", [*ARGUMENTS, *sampled, *more])
        return status, [*printed, capsys.readouterr().out]

    return run


def edit(file: Path, *replacements: tuple[str, str]) -> Edit:
    def save() -> None:
        text = file.read_text()
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new)
        file.write_text(text)

    return save


def test_each_save_tells_what_it_changed(watching, transpose_kernels):
    file = transpose_kernels / "transpose.cu"
    conflicts = STORE.replace("i ^ threadIdx.x", "i")
    swizzle = ("tile_smem[i][threadIdx.x ^ i] =", "tile_smem[i][threadIdx.x] =")
    status, (first, comment, slower, same, wrong, broken, mended, whole, end) = watching(
        [
            edit(file, (STORE, f"{STORE}  // a comment")),
            edit(file, (STORE, conflicts), swizzle),
            lambda: os.utime(file),
            edit(file, (conflicts, "tile.y[n * p.ldy + m] = T(1);")),
            edit(file, ("__syncthreads();", "__syncthread();")),
            edit(file, ("__syncthread();", "__syncthreads();")),
            edit(file, ("TILE_ROWS = 8;", "TILE_ROWS = 16;")),
        ],
        "--kernel",
        "swizzled",
    )
    assert re.search(r"  swizzled: right; [\d.]+ us, limit \w+", first)
    assert "transpose.cu: device code in" in comment
    assert re.search(r"swizzled: right; time as before, limit", comment)
    assert "shared load wavefronts" not in comment
    assert "transpose.cu: device code in" in slower
    assert "shared load wavefronts 4.10 k -> 131 k (x32)" in slower
    assert re.search(r"[\d.]+ s from save to verdict", slower)
    assert same == ""
    assert "WRONG  transpose swizzled" in wrong
    assert re.search(r"does not compile\n.*transpose\.cu:\d+: error: .*__syncthread", broken)
    assert "from save to verdict" not in broken
    assert "as before the error" in mended
    assert "transpose.cu: build in" in whole  # a constant of the host code, too
    assert "WRONG" in whole
    assert "4 edits" in end
    assert status == 1


def test_values_of_variables_are_code_too(watching, transpose_kernels):
    """A kernel with the same instructions computes something else."""
    file = transpose_kernels / "transpose.cu"
    constant = "__constant__ int SHIFT = 0;\n\ntemplate <class T>\n__global__"
    text = file.read_text().replace("template <class T>\n__global__", constant, 1)
    load = "tile.y[n * p.ldy + m] = tile.x[m * p.ldx + n];"
    file.write_text(text.replace(load, load.replace("+ n]", "+ (n + SHIFT) % p.N]")))
    status, (_, block, end) = watching([edit(file, ("SHIFT = 0;", "SHIFT = 1;"))])
    assert "transpose.cu: device code in" in block
    assert "WRONG  transpose naive" in block
    assert status == 1


def test_a_struct_that_is_packed_is_host_code_too(watching, transpose_kernels):
    header = transpose_kernels / "transpose.cuh"
    struct = "struct Transpose {"
    text = header.read_text()
    assert text.count(struct) == 1 and "template <class T>\nstruct Transpose {" in text
    start = text.index("template <class T>\nstruct Transpose {")
    end = text.index("};", start) + 3
    packed = text[start:end].replace(struct, f"{struct}\n  char tag = 0;")
    header.write_text(
        f"{text[:start]}#pragma pack(push, 8)\n{packed}#pragma pack(pop)\n{text[end:]}"
    )
    edits = [edit(header, ("#pragma pack(push, 8)", "#pragma pack(push, 1)"))]
    status, (_, block, end) = watching(edits, "--kernel", "naive")
    assert "build" in block and "naive: right" in block
    assert status == 0


def test_an_edit_of_a_header_has_its_sources_in_the_history(watching, transpose_kernels, tmp_path):
    """Other files that include it stay stale: they are not measured."""
    header, file = transpose_kernels / "transpose.cuh", transpose_kernels / "transpose.cu"
    edits = [
        edit(header, ("b = blockIdx.x / (", "b = blockIdx.x / 1 / (")),
        edit(file, (STORE, f"{STORE}\n    __syncwarp();")),
    ]
    watching(edits, "--kernel", "swizzled")
    history = History(tmp_path / "history.db")
    entries = reading.find(history, reading.Filter())
    assert len(entries) == 3
    assert reading.files(history, entries[2])["transpose.cu"] == file.read_bytes()
    assert reading.files(history, entries[1])["transpose.cuh"] == header.read_bytes()


def test_edits_before_anybody_watched(watching, transpose_kernels, monkeypatch):
    """They are looked for every two seconds, after an error only when something is saved."""
    file = transpose_kernels / "transpose.cu"
    broken = edit(file, ("__syncthreads();", "__syncthread();"))
    real = watch.Watch.saved
    monkeypatch.setattr(watch.Watch, "saved", lambda self, files: real(self, []))
    edits = [edit(file, (STORE, f"{STORE}\n    __syncwarp();")), lambda: None, broken, lambda: None]
    status, (_, block, nothing, error, again, end) = watching(edits, "--kernel", "swizzled")
    assert "transpose.cu: device code in" in block and "swizzled: right" in block
    assert "does not compile" in error
    assert nothing == again == ""
    assert status == 1


def test_every_verdict_is_recorded_with_what_was_measured(watching, transpose_kernels, tmp_path):
    """Also where only device code was loaded, and the library is that of an older source."""
    file = transpose_kernels / "transpose.cu"
    texts = [file.read_bytes()]
    conflicts = (STORE, STORE.replace("i ^ threadIdx.x", "i"))
    edits = [
        edit(file, ("threadIdx.x ^ i] =", "threadIdx.x] ="), conflicts),
        edit(file, (STORE.replace("i ^ threadIdx.x", "i"), "tile.y[n * p.ldy + m] = T(1);")),
    ]

    def then_read(save: Edit) -> Edit:
        def both() -> None:
            save()
            texts.append(file.read_bytes())

        return both

    watching([then_read(save) for save in edits], "--kernel", "swizzled", "--note", "try this")
    history = History(tmp_path / "history.db")
    entries = reading.find(history, reading.Filter())
    assert [entry.counters["shared_load_wavefronts"] for entry in entries] == [4096, 131072]
    for entry, text in zip(entries, texts, strict=False):  # the last is wrong: not measured
        assert reading.files(history, entry)["transpose.cu"] == text
        assert entry.notes == ("try this",)


def test_rungs_with_the_same_instructions_are_not_measured(watching, transpose_kernels):
    file = transpose_kernels / "transpose.cu"
    old = "tile.y[n * p.ldy + m] = tile_smem[threadIdx.x][i ^ threadIdx.x];"
    status, (first, block, end) = watching([edit(file, (old, f"{old}\n    __syncwarp();"))])
    assert [line.split(":")[0].strip() for line in first.splitlines()[2:]] == [
        *("naive", "tiled", "padded", "swizzled", "vectorized")
    ]
    assert "swizzled: right" in block and "naive" not in block
    assert "4 rungs with the same instructions as before: not measured" in block
    assert status == 0


def test_races_are_found_after_every_save(watching, transpose_kernels):
    file = transpose_kernels / "transpose.cu"
    barrier = "  __syncthreads();  // the tile is complete\n"
    status, (first, block, end) = watching(
        [edit(file, (barrier, ""))], "--kernel", "tiled", "--check", "--shape", "M=64,N=64"
    )
    assert "tiled: right" in first
    assert re.search(r"(race|init)check: read of \d bytes? in shared memory 'tile_smem'", block)
    assert status == 1


@pytest.mark.full
def test_a_rung_that_is_no_longer_there(watching, transpose_kernels):
    """It may come back with the next save."""
    file = transpose_kernels / "transpose.cu"
    line = '{"swizzled", transpose_swizzled, ALL},'
    taken = edit(file, (line, ""))
    back = edit(file, ('{"padded",', f'{line}\n    {{"padded",'))
    status, (_, gone, there, end) = watching([taken, back], "--kernel", "swizzled")
    assert "error: --kernel swizzled: transpose has naive, tiled, padded, vectorized" in gone
    assert "swizzled: right; time as before" in there
    assert status == 0


def test_a_full_disk_is_told_and_the_next_save_tried(watching, transpose_kernels, monkeypatch):
    file = transpose_kernels / "transpose.cu"
    real = ptx_text.compiled

    def full(*words):
        raise OSError(errno.ENOSPC, "No space left on device", "scratch")

    def first() -> None:
        edit(file, (STORE, f"{STORE}  __syncwarp();"))()
        monkeypatch.setattr(ptx_text, "compiled", full)

    def second() -> None:
        os.utime(file)
        monkeypatch.setattr(ptx_text, "compiled", real)

    status, (_, block, again, end) = watching([first, second], "--kernel", "swizzled")
    assert "not compiled: scratch: No space left on device" in block
    assert "swizzled: right" in again
    assert status == 0


@pytest.mark.parametrize("edited", [True, False])
def test_an_interrupt_before_the_verdict(edited, watching, transpose_kernels, monkeypatch):
    """An edit without a verdict is told; a save without an edit needs none."""
    file = transpose_kernels / "transpose.cu"

    def interrupt(*words):
        raise KeyboardInterrupt

    def save() -> None:
        if edited:
            edit(file, (STORE, f"{STORE}  __syncwarp();"))()
        where = (ptx_text, "compiled") if edited else (watch, "_await_sources")
        monkeypatch.setattr(*where, interrupt)

    status, (_, *rest) = watching([save], "--kernel", "swizzled")
    assert ("the last save was not measured" in "".join(rest)) == edited
    assert status == 0


def test_a_file_saved_while_it_compiles(watching, transpose_kernels, monkeypatch):
    """The verdict is on what was saved last, as is the row in the history."""
    file = transpose_kernels / "transpose.cu"
    real, calls = ptx_text.compiled, []

    def meanwhile(*words):
        made = real(*words)
        if not calls:
            edit(file, ("threadIdx.x ^ i] =", "threadIdx.x] ="))()
            edit(file, (STORE, STORE.replace("i ^ threadIdx.x", "i")))()
        calls.append(words)
        return made

    monkeypatch.setattr(ptx_text, "compiled", meanwhile)
    edits = [edit(file, ("  __syncthreads();  // the tile is complete", "  __syncthreads();"))]
    status, (_, block, end) = watching(edits, "--kernel", "swizzled")
    assert len(calls) == 2
    assert "shared load wavefronts 4.10 k -> 131 k (x32)" in block
    assert status == 0


def test_a_new_rung_appears(watching, transpose_kernels):
    file = transpose_kernels / "transpose.cu"
    line = '{"swizzled", transpose_swizzled, ALL},'
    added = edit(file, (line, f"{line}\n{line.replace('swizzled', 'mine', 1)}"))
    status, (_, block, end) = watching([added], "--dtype", "float32")
    assert "transpose.cu: build in" in block
    assert re.search(r"^  mine: right", block, re.M)
    assert "\nswizzled, M=256,N=512 float32: " in end and status == 0


def test_other_calls_get_the_kernels_of_the_files(watching, transpose_kernels):
    """When watching ends, a build has the device code again that it was built with."""
    file = transpose_kernels / "transpose.cu"
    text = file.read_text()
    watching([edit(file, (STORE, "tile.y[n * p.ldy + m] = T(1);"))], "--kernel", "swizzled")
    file.write_text(text)
    builds.reset()
    x = torch.arange(12.0).reshape(3, 4)
    assert torch.equal(transpose(x, kernel="swizzled"), x.T)


class Child:
    """A script that watches, as a person starts it."""

    def __init__(self, kernels: Path, *arguments: str) -> None:
        environment = os.environ | {"WORKBENCH_KERNELS": str(kernels)}
        self.process = subprocess.Popen(
            [sys.executable, "test_transpose.py", *ARGUMENTS, *SAMPLED, *arguments],
            cwd=REPO,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.out = ""

    def until(self, words: str, seconds: float = 120.0) -> str:
        """What it prints, up to these words."""
        start = len(self.out)
        end = time.monotonic() + seconds
        while words not in self.out[start:]:
            assert time.monotonic() < end and self.process.poll() is None, self.out
            self.read()
            time.sleep(0.01)
        return self.out[start:]

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.out += os.read(self.process.stdout.fileno(), 1 << 16).decode()

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(60)
        self.read()
        return status


@pytest.mark.full
def test_a_kill_at_any_moment_costs_nothing(transpose_kernels):
    file = transpose_kernels / "transpose.cu"
    text = file.read_text()
    for i in range(6):
        child = Child(transpose_kernels, "--kernel", "swizzled")
        try:
            child.until("limit")
            file.write_text(text.replace(STORE, f"{STORE}\n    __syncwarp();  // {i}"))
            time.sleep(0.15 * i)
        finally:
            child.process.kill()
            child.process.wait()
    child = Child(transpose_kernels, "--kernel", "swizzled")
    try:
        assert "swizzled: right" in child.until("limit")
        file.write_text(text)
        assert "swizzled: right" in child.until("from save to verdict")
        assert child.end() == 0
    finally:
        child.process.kill()


def test_two_watchers_and_an_editor_that_saves_by_renaming(transpose_kernels):
    file = transpose_kernels / "transpose.cu"
    children = [Child(transpose_kernels, "--kernel", "swizzled") for _ in range(2)]
    try:
        for child in children:
            child.until("limit")
        time.sleep(0.2)
        scratch = file.with_name(".transpose.cu.swp")
        scratch.write_text(file.read_text().replace(STORE, f"{STORE}\n    __syncwarp();"))
        file.rename(file.with_name("transpose.cu~"))
        time.sleep(0.05)
        scratch.rename(file)
        for child in children:
            assert "swizzled: right" in child.until("from save to verdict")
        assert [child.end() for child in children] == [0, 0]
    finally:
        for child in children:
            child.process.kill()
    for child in children:
        assert "1 edit\nswizzled, M=256,N=512 float32: " in child.out
        assert "Traceback" not in child.out
