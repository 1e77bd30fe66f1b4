"""--sweep: tunables on the command line, versions, tables, heat maps, the best values in a file."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import math
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from workbench import estimate
from workbench.cli import main
from workbench.cli.request import request
from workbench.cli.sweep import best, heat, measuring, plan
from workbench.cli.sweep import command as sweep_command
from workbench.cli.sweep.outcome import Outcome, Sweep
from workbench.cli.sweep.plan import Plan, plans, short
from workbench.harness import versions
from workbench.harness.checking import Tried
from workbench.harness.results import Estimated, Row
from workbench.operators import builds, tunables
from workbench.operators.builds import Rung
from workbench.operators.matmul import OPERATOR as MATMUL
from workbench.operators.softmax import OPERATOR as SOFTMAX
from workbench.toolchain import BuildError, kernels_dir
from workbench.toolchain.errors import UsageError
from workbench.toolchain.variants import Variant


@pytest.fixture(autouse=True)
def nothing_compiles_ahead(monkeypatch):
    monkeypatch.setattr(estimate, "prepare", lambda op, gpu: None)


def asked(*words: str, operator=MATMUL) -> list[Plan]:
    return plans(request(operator, [*words, "--target", "simulator"]))


def values(*words: str, operator=MATMUL) -> dict[str, tuple[int, ...]]:
    [found] = asked(*words, operator=operator)
    return {tunable.name: of for tunable, of in found.values.items()}


# What is asked for


def test_all_tunables_of_a_rung_with_the_values_of_their_comments():
    assert values("--kernel", "async", "--sweep") == {
        "ASYNC_BM": (64, 128),
        "ASYNC_BN": (64, 128, 256),
        "ASYNC_BK": (8, 16),
        "ASYNC_WM": (32, 64),
        "ASYNC_WN": (16, 32, 64),
        "ASYNC_STAGES": (2, 3, 4),
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--sweep", "TILED_TILE=8,16"], {"TILED_TILE": (8, 16)}),
        (["--sweep", "TILED_16_TILE=32"], {"TILED_16_TILE": (32,)}),
        (["--kernel", "tiled", "--sweep", "TILE=8,16,8"], {"TILED_TILE": (8, 16)}),
        (["--kernel", "tiled", "--sweep", "best", "TILE=-1"], {"TILED_TILE": (-1,)}),
        (["--kernel", "mma_tuned", "--sweep", "BM=64"], {"MMA_TUNED_BM": (64,)}),
        (["--kernel", "mma_tuned", "--sweep", "SMALL_BM=64"], {"MMA_TUNED_SMALL_BM": (64,)}),
        (["--sweep", "ASYNC_BN", "BK=32"], {"ASYNC_BN": (64, 128, 256), "ASYNC_BK": (32,)}),
        (["--sweep", "HALF_SUMS=1", "MMA_BK=64"], {"MMA_BK": (64,), "MMA_HALF_SUMS": (1,)}),
    ],
)
def test_names_and_values(words, expected):
    assert values(*words) == expected


def test_each_rung_has_its_own_tunables():
    tiled, coalesced = sorted(asked("--kernel", "coalesced", "tiled", "--sweep"), key=str)[::-1]
    of_rungs = {found.rung.name: [t.name for t in found.values] for found in (tiled, coalesced)}
    assert of_rungs == {"tiled": ["TILED_TILE"], "coalesced": ["COALESCED_TILE"]}
    shared = asked("--sweep", "CLUSTER_NUM_THREADS=256", operator=SOFTMAX)
    assert [found.rung.name for found in shared] == ["cluster", "cluster_pipelined"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sweep"], "--sweep: name the rungs with --kernel, or a tunable with its values"),
        (["--sweep", "best"], "--sweep: name the rungs with --kernel"),
        (["--sweep", "TILE=16"], "several rungs have it: choose with --kernel: naive, coalesced"),
        (["--sweep", "NO_SUCH=16"], "--sweep NO_SUCH: no rung has such a tunable"),
        (["--kernel", "tiled", "--sweep", "BM=16"], "no such tunable: tiled has TILED_TILE"),
        (["--sweep", "TILED_TILE=16", "BM=16"], "no such tunable: tiled has TILED_TILE"),
        (["--kernel", "tiled", "--sweep", "TILE=1", "TILE=2"], "TILE is given twice"),
        (["--kernel", "tiled", "--sweep", "16"], "--sweep 16: expected a tunable, TILE, or"),
        (["--kernel", "tiled", "--sweep", "TILE=16;32"], "expected a tunable, TILE, or"),
        (
            ["--kernel", "tiled", "--sweep", "TILE=9999999999"],
            "expected a tunable, TILE, or",
        ),
        (["--kernel", "mma_tuned", "--sweep"], r"mma_tuned has 10368 combinations of BM \(3\), "),
        (["--kernel", "split_k", "--sweep", "BK=8", "SMALL=8"], "no such tunable: split_k has"),
        (
            ["--kernel", "tiled", "async", "--sweep", "TILE=16"],
            "none of TILE: async has ASYNC_BM, ASYNC_BN",
        ),
        (["--kernel", "tiled", "--sweep", "--explain", "tiled"], "show different things"),
        (["--kernel", "tiled", "--sweep", "--check"], "--sweep runs without checks"),
    ],
)
def test_what_cannot_be_swept_is_one_line(words, message):
    with pytest.raises(UsageError, match=message) as raised:
        asked(*words)
    assert "\n" not in str(raised.value)


def test_a_rung_without_tunables():
    with pytest.raises(UsageError, match="cpu_naive has none"):
        plans(request(builds.get("attention"), "--target cpu --kernel cpu_naive --sweep".split()))


def test_an_ambiguous_end_of_a_name():
    [found] = asked("--kernel", "mma_tuned", "--sweep", "BM=64")
    with pytest.raises(UsageError, match="MMA_TUNED_STAGES, MMA_TUNED_SMALL_STAGES"):
        named = [t for t in found.tunables if t.name.endswith("_STAGES")]
        other = dataclasses.replace(found.rung, name="other")
        plan._called("STAGES", other, named)


@pytest.mark.parametrize(
    ("rung", "name", "expected"),
    [
        ("tiled", "TILED_TILE", "TILE"),
        ("tiled_16", "TILED_16_TILE", "TILE"),
        ("flash_registers", "REGISTERS_CHUNK", "CHUNK"),
        ("cluster_pipelined", "CLUSTER_NUM_THREADS", "CLUSTER_NUM_THREADS"),
        ("naive", "TILE_ROWS", "TILE_ROWS"),
    ],
)
def test_short_names(rung, name, expected):
    tunable = tunables.Tunable(name, 1, (1,), "a.cu", 1, (0, 1))
    assert short(tunable, Rung("matmul", rung, ())) == expected


def test_the_combination_in_the_file_comes_first_and_once():
    [found] = asked("--kernel", "thread_tile_1d", "--sweep", "BM=32,64", "BK=8,16", "TM=4")
    assert found.in_file == (64, 8, 8)
    rest = [c for c in itertools.product((32, 64), (8, 16), (4,)) if c != found.in_file]
    assert found.combinations == [(64, 8, 8), *rest]
    assert found.name((32, 8, 4)) == "BM=32 BK=8 TM=4"


# A whole sweep


def made_up(launches, op, gpu, sources):
    """A time that grows with the threads of a block."""
    threads = math.prod(launches[0].block)
    assert sources[0].name == "softmax.cu" and "block_per_row" in launches[0].kernel
    return lambda: Estimated(
        gpu.name, threads / 1e3, 0.3, "DRAM", 0.5, "registers", {}, 40, 4096, 8
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> SimpleNamespace:
    """Two values that work, one that does not compile; the file has a fourth."""
    saved = tmp_path_factory.mktemp("sweep") / "x.json"
    before = {path: path.read_bytes() for path in kernels_dir().iterdir()}
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(estimate, "prepare", lambda op, gpu: None)
        patch.setattr(estimate, "begin", made_up)
        words = "--kernel block_per_row --sweep NUM_THREADS=64,96,512 --target simulator"
        shape = ("--shape", "rows=3,cols=70", "--json", str(saved))
        status = main.main("softmax", [*words.split(), *shape])
    after = {path: path.read_bytes() for path in kernels_dir().iterdir()}
    rows = json.loads(saved.read_text())["rows"]
    return SimpleNamespace(status=status, out=out.getvalue(), rows=rows, untouched=before == after)


def test_a_table_with_the_best_first_and_the_reasons_last(swept):
    assert swept.status == 0
    table = re.findall(r"^ +(\d+)  (.*)$", swept.out, flags=re.MULTILINE)
    assert [row[0] for row in table] == ["64", "256", "512", "96"]
    figures = [re.split(r" {2,}", row[1].strip()) for row in table]
    assert figures[0] == ["+8 B 40", "4.10 kB", "50%", "DRAM", "64 us", "4.00x", "best"]
    assert figures[1][-3:] == ["256 us", "1.00x", "file"]
    assert figures[2][-2:] == ["512 us", "0.50x"]
    assert figures[3] == ["does not compile: the tree halves a power of two"]
    assert "3 combinations" not in swept.out and "4 combinations of NUM_THREADS" in swept.out
    assert "an ESTIMATE for the H200" in swept.out


def test_the_files_of_the_user_stay_as_they_are(swept):
    assert swept.untouched


def test_the_rows_for_a_program(swept):
    found = {row["tunables"]["BLOCK_PER_ROW_NUM_THREADS"]: row for row in swept.rows}
    assert found.keys() == {64, 96, 256, 512}
    assert {row["kernel"] for row in swept.rows} == {"block_per_row"}
    assert [t for t, row in found.items() if row["best"]] == [64]
    assert [t for t, row in found.items() if row["in_file"]] == [256]
    assert [t for t, row in found.items() if row["checked"]] == [256, 64, 512]
    assert found[96]["refused"] == "does not compile: the tree halves a power of two"
    warps = {t: row["counters"]["warp_instructions"] for t, row in found.items() if t != 96}
    assert warps[64] < warps[256] < warps[512]  # each is its own code


# The course of a sweep, with builds and times made up


def wanted(*words: str, target: str = "simulator"):
    request_ = request(SOFTMAX, ["--kernel", "online", *words, "--target", "simulator"])
    return dataclasses.replace(request_, target=target)


def fill(sweep: Sweep, times: list[float | None]) -> None:
    """Give the first outcomes these times."""
    for outcome, time in zip(sweep.outcomes, times, strict=False):
        for case in sweep.cases:
            row = measuring.unmeasured(sweep, case, "" if time else "declines: why not")
            outcome.rows[case] = dataclasses.replace(row, checked=bool(time), time_ms=time)


@pytest.mark.parametrize("target_", ["cpu", "gpu"])
def test_where_time_is_measured_everything_is_built_before(target_, monkeypatch):
    events: list[str] = []

    class Makes:
        kernels = kernels_dir()

        def built(self, every, after):
            for i in (2, 0, 1):  # as they are done
                events.append("built")
                yield i, BuildError("a: error: no") if i == 1 else Variant(Path(f"{i}"), ())

    def timed(operator, rung, found, case, tried, target, step):
        events.append("timed")
        assert target == target_ and [v.name for v in found] == list(tried)
        rows = [measuring.unmeasured(sweep, case, "") for _ in found]
        return [dataclasses.replace(row, note=v.name) for row, v in zip(rows, found, strict=True)]

    def tried(operator, rung, version, cases, target):
        events.append("tried")
        assert len(cases) == len(SOFTMAX.edges) + len(SOFTMAX.small)
        return Tried()

    monkeypatch.setattr(measuring.variants, "of", lambda target, files: Makes())
    monkeypatch.setattr(builds, "loaded", lambda target, path, kernels: path)
    monkeypatch.setattr(versions, "try_version", tried)
    monkeypatch.setattr(versions, "time", timed)
    words = ("--sweep", "NUM_THREADS=64,128", "--shape", "rows=2,cols=3", "rows=4,cols=5")
    sweep = Sweep.of(wanted(*words, target=target_), plans(wanted(*words))[0])
    measuring.measure(sweep)
    assert events == ["built"] * 3 + ["tried"] * 2 + ["timed"] * 2
    first, second, third = sweep.outcomes
    assert second.fault == "no" and not second.rows
    for outcome in (first, third):
        assert [row.note for row in outcome.rows.values()] == [outcome.name] * 2


def test_what_was_measured_before_ctrl_c_is_shown(monkeypatch, capsys):
    def interrupted(sweep: Sweep) -> None:
        fill(sweep, [2.0, None])
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep_command.run(wanted("--sweep", "NUM_THREADS=64,128", "--shape", "rows=2,cols=3"))
    out = capsys.readouterr().out
    assert re.search(r"^ +256 .* 1\.00x +both$", out, flags=re.MULTILINE)
    assert re.search(r"^ +64  declines: why not$", out, flags=re.MULTILINE)
    assert not re.search(r"^ +128 ", out, flags=re.MULTILINE)


def test_what_no_version_takes_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(measuring, "measure", lambda sweep: fill(sweep, [None] * 3))
    words = ("--sweep", "NUM_THREADS=64,128", "--shape", "rows=2,cols=3")
    assert sweep_command.run(wanted(*words)) == 0
    line = "softmax online rows=2,cols=3 float32: every combination declines: why not"
    assert line in capsys.readouterr().out


def test_a_wrong_version_in_the_file_is_a_failure(monkeypatch, capsys):
    def wrong(sweep: Sweep) -> None:
        fill(sweep, [1.0, 2.0])
        for case, row in sweep.in_file.rows.items():
            note = "WRONG  online\n  worst   out[0]: got 1"
            sweep.in_file.rows[case] = dataclasses.replace(row, checked=False, note=note)

    monkeypatch.setattr(measuring, "measure", wrong)
    words = ("--sweep", "NUM_THREADS=64", "--shape", "rows=2,cols=3")
    assert sweep_command.run(wanted(*words)) == 1
    out = capsys.readouterr().out
    assert "256  WRONG: worst out[0]: got 1" in out
    assert "WRONG  online\n  worst   out[0]: got 1" in out


def test_a_dtype_that_a_rung_does_not_support(monkeypatch, capsys):
    words = ("--sweep", "NUM_THREADS=64", "--dtype", "bfloat16", "--shape", "rows=2,cols=3")
    assert sweep_command.run(wanted(*words)) == 0
    assert capsys.readouterr().out == "\nonline does not support bfloat16\n"


def test_a_picture_and_rows_of_several_shapes(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(measuring, "measure", lambda sweep: fill(sweep, [1.0, 3.0, 2.0, None]))
    shapes = ("--shape", "rows=2,cols=3", "rows=4,cols=5")
    asked_ = wanted("--sweep", "NUM_THREADS=64,128", *shapes, "--json", str(tmp_path / "x.json"))
    asked_.words.plot = tmp_path / "x.png"
    assert sweep_command.run(asked_) == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert len({(row["shape"], *row["tunables"].values()) for row in rows}) == 6


def test_a_full_disk_is_an_error_after_the_table(monkeypatch, capsys):
    monkeypatch.setattr(measuring, "measure", lambda sweep: fill(sweep, [1.0, 2.0]))
    asked_ = wanted("--sweep", "NUM_THREADS=64", "--shape", "rows=2,cols=3")
    asked_.saved.paths["--json"] = Path("/dev/full")
    assert sweep_command.run(asked_) == 1
    out, err = capsys.readouterr()
    assert "1.00x" in out
    assert err == "error: --json /dev/full: No space left on device\n"


# Which is the best


CASES = [SOFTMAX.case("rows=2,cols=3"), SOFTMAX.case("rows=4,cols=5")]


def sweep(*times: tuple[float | None, ...], spread: float = 0.0) -> Sweep:
    """Of versions with these times per case; None is wrong."""
    outcomes = []
    for i, of_version in enumerate(times):
        outcome = Outcome((i,), f"A={i}")
        for case, time in zip(CASES, of_version, strict=False):
            row = Row("softmax", "x", str(case.shape), "float32", "gpu", time is not None)
            noise = spread * time if time else None
            row = dataclasses.replace(row, time_ms=time, spread=noise, note="WRONG  x\n  worst")
            outcome.rows[case] = row
        outcomes.append(outcome)
    return Sweep(None, None, tuple(CASES[: len(times[0])]), outcomes)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([(2.0,), (1.0,), (3.0,)], 1),
        ([(1.0,), (0.995,)], 0),  # no difference
        ([(1.0,), (0.98,)], 1),
        ([(4.0, 1.0), (1.0, 5.0), (1.0, 3.0)], 2),  # the geometric mean over the cases
        ([(2.0,), (None,), (1.5,)], 2),
        ([(2.0, 2.0), (0.1, None), (1.0, 1.0)], 2),  # wrong in one case
        ([(None,), (1.0,)], 1),  # the file's own is wrong
        ([(2.0, None), (1.0, None)], 1),  # a case that no version takes
        ([(None,), (None,)], None),
    ],
)
def test_the_best(times, expected):
    found = sweep(*times).best
    assert (None if found is None else found.combination[0]) == expected


def test_within_the_spread_the_values_in_the_file_are_as_good():
    assert sweep((1.0,), (0.95,), spread=0.01).best.combination == (1,)
    assert sweep((1.0,), (0.95,), spread=0.10).best.combination == (0,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a.cu:3: error: static assertion failed with "no way"\n  more', "no way"),
        ("a.cpp:3: error: static assertion failed: no way\n  more", "no way"),
        ('a.cu:3: error: first\n\na.cu:4: error: static assertion failed with "b"', "b"),
        ('a.cu:3: error: identifier "x" is undefined\n  x\n  ^', 'identifier "x" is undefined'),
        ("cannot write lib/x: No space left on device", "cannot write lib/x: No space left on "),
    ],
)
def test_why_a_version_does_not_build(text, expected):
    assert measuring.reason(BuildError(text)).startswith(expected)


# The best values in the file


TEXT = (
    "// caf\xe9\r\n"
    "constexpr int ONE_A = 16;  // tunable: 16, 32\r\n"
    "constexpr int ONE_B = 8;   // tunable: 4, 8\r\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("WORKBENCH_KERNELS", str(tmp_path))
    (tmp_path / "softmax.cu").write_bytes(tunables.content(TEXT))
    return tmp_path


def of_file(rung: str = "one") -> Plan:
    own = tunables.parse("softmax.cu", TEXT)
    return Plan(Rung("softmax", rung, ()), {"softmax.cu": TEXT}, own, {t: t.choices for t in own})


def test_only_the_values_change(folder, capsys):
    (folder / "softmax.cu").chmod(0o640)
    assert best.write_best([(of_file(), (32, 8))]) == 0
    text = tunables.text((folder / "softmax.cu").read_bytes())
    assert text == TEXT.replace("ONE_A = 16", "ONE_A = 32")
    assert (folder / "softmax.cu").stat().st_mode & 0o777 == 0o640
    assert capsys.readouterr().out.endswith("softmax.cu:2: ONE_A 16 -> 32\n")
    assert [path.name for path in folder.iterdir()] == ["softmax.cu"]


def test_values_that_are_the_best_already(folder, capsys):
    before = (folder / "softmax.cu").stat()
    assert best.write_best([(of_file(), (16, 8))]) == 0
    assert "no other values are better" in capsys.readouterr().out
    assert (folder / "softmax.cu").stat().st_mtime_ns == before.st_mtime_ns


def test_a_file_that_was_edited_meanwhile_is_left_alone(folder, capsys):
    (folder / "softmax.cu").write_text("edited")
    assert best.write_best([(of_file(), (32, 4))]) == 1
    assert (folder / "softmax.cu").read_text() == "edited"
    assert "it was edited during the sweep" in capsys.readouterr().err


def test_a_file_that_is_gone(folder, capsys):
    (folder / "softmax.cu").unlink()
    assert best.write_best([(of_file(), (32, 4))]) == 1
    assert "softmax.cu: No such file or directory" in capsys.readouterr().err


def test_rungs_that_disagree_on_a_shared_value(folder, capsys):
    assert best.write_best([(of_file("one"), (32, 8)), (of_file("two"), (16, 4))]) == 1
    assert tunables.text((folder / "softmax.cu").read_bytes()) == TEXT
    err = capsys.readouterr().err
    assert "ONE_A: two is best with 16, another rung with 32; it stays 16" in err


# Heat maps


def grids(names: list[str], count: int) -> tuple[dict[tuple[int, ...], float | None], heat.Grid]:
    """Times that depend most on the last two tunables, and their grid."""
    random.seed(1)
    keys = list(itertools.product((1, 2), repeat=count))
    times = {key: (1 + 5 * key[-1] + 3 * key[-2] * key[-2] + 0.01 * sum(key)) for key in keys}
    times[keys[-1]] = None
    return times, heat.grid("t", names, keys[0], times)


def test_of_many_tunables_the_two_that_matter_are_shown():
    times, grid = grids(["A", "B", "C", "D"], 4)
    assert ({grid.down, grid.across}, grid.others) == ({"C", "D"}, ("A", "B"))
    for y, x in itertools.product(range(2), range(2)):
        here = [t for key, t in times.items() if key[2:] == (y + 1, x + 1) and t is not None]
        assert grid.times[y][x] == min(here)
    assert grid.in_file == (1, 1)
    assert grid.best == min(t for t in times.values() if t is not None)


def test_a_tunable_with_one_value_is_no_axis():
    times: dict[tuple[int, ...], float | None] = {(1, 7, 3): 1.0, (2, 7, 3): 1.0, (1, 7, 4): None}
    grid = heat.grid("t", ["A", "B", "C"], (1, 7, 3), times)
    assert (grid.down, grid.across, grid.times) == ("A", "C", ((1.0, None), (1.0, None)))
    assert grid.others == ()
    assert heat.grid("t", ["A"], (1,), {(1,): 1.0}).times == ((1.0,),)


def test_a_heat_map_as_text(capsys):
    times: dict[tuple[int, ...], float | None] = {(2, 64): 1.0, (10, 64): 2.5, (2, 8): None}
    heat.print_grid(heat.grid("a title", ["A", "B"], (2, 64), times))
    assert capsys.readouterr().out.splitlines() == [
        "a title",
        "A down, B across",
        "     8       64",
        "2    -    1 ms*",
        "10   -   2.5 ms",
    ]
    heat.print_grid(heat.grid("nothing right", ["A", "B"], (2, 8), {(2, 8): None}))
    assert capsys.readouterr().out == ""


def test_colors_follow_the_time():
    shades = [heat._shade(time, 1.0) for time in (1.0, 1.05, 1.3, 1.6, 1.99, 2.0, 50.0)]
    assert shades == sorted(shades)
    assert (shades[0], shades[-1]) == (0, len(heat.COLORS) - 1)


def test_a_heat_map_as_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    _, two = grids(["A", "B"], 2)
    one = heat.grid("one", ["A"], (1,), {(1,): 1.0, (2,): None})
    heat.draw(tmp_path / "x.png", [two, one])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
