"""Result tables: in a terminal, in 100 plain columns, and on a page."""

import dataclasses
import io
import re

import pytest

from workbench import operators
from workbench.cli import columns
from workbench.estimate import GPUS
from workbench.harness.results import Estimated, Row, Traffic
from workbench.harness.terminal import show
from workbench.history import Previous

COUNTED = {
    "warp_instructions": 123_456_789.0,
    "thread_instructions": 3.9e9,
    "flops": 33_554_432.0,
    "global_load_bytes": 134_217_728.0,
    "global_store_bytes": 262_144.0,
    "global_load_requests": 1.0e6,
    "global_store_requests": 1.0e3,
    "global_load_sectors": 16.5e6,
    "global_store_sectors": 4.0e3,
    "global_load_sectors_ideal": 4.0e6,
    "global_store_sectors_ideal": 4.0e3,
    "bulk_load_bytes": 0.0,
    "bulk_store_bytes": 0.0,
    "shared_load_bytes": 8.0e9,
    "shared_store_bytes": 1.0e6,
    "shared_load_wavefronts": 300.0,
    "shared_store_wavefronts": 100.0,
    "shared_load_wavefronts_ideal": 60.0,
    "shared_store_wavefronts_ideal": 100.0,
    "simulator_seconds": 12.3,
    "estimated_ms_h200": 0.0412,
}
ESTIMATE = Estimated("h200", 0.0412, 0.3, "latency", 0.5, "registers")


def simulated(kernel, **fields) -> Row:
    shape = "M=256,N=256,K=256"
    given = {"checked": True, "counters": COUNTED, "share": 0.0123, "estimate": ESTIMATE}
    return Row("matmul", kernel, shape, "float32", "simulator", **given | fields)


def timed(kernel, op="matmul", shape="M=8192,N=8192,K=8192", **fields) -> Row:
    given = {"time_ms": 1.2345, "spread": 0.01, "rate": 51.23, "share": 0.5}
    return Row(op, kernel, shape, "float32", "gpu", True, **given | fields)


BYTES = COUNTED | {"l2_read_sectors": 49_152.0, "l2_write_sectors": 65_536.0}
ROWS = "rows=512,cols=512"  # 2 MiB


def of_bytes(kernel, **fields) -> Row:
    given = {
        "checked": True,
        "counters": BYTES | {"global_load_bytes": 3 << 20, "global_store_bytes": 1 << 20},
        "share": 0.0123,
        "estimate": ESTIMATE,
        "traffic": Traffic(1 << 21, 2.0, 1.75),
        "unit": "gbps",
    }
    return Row("softmax", kernel, ROWS, "float32", "simulator", **given | fields)


def printed(rows, previous=None) -> list[str]:
    """The lines of the rows' table if the output is not a terminal."""
    file = io.StringIO()
    entries = [columns.Entry(row, (previous or {}).get(row.kernel)) for row in rows]
    shown = columns.columns(rows[0], columns.baselines_of(rows))
    show("title", [c.title for c in shown], list(columns.cells(shown, entries)), file)
    return file.getvalue().splitlines()


def line_of(kernel, lines) -> list[str]:
    (line,) = (line for line in lines if line.startswith(f"{kernel} "))
    return line.split()


def test_a_simulator_s_table_fits_100_plain_columns():
    rows = [
        simulated("block_per_row"),
        simulated("tiled"),
        simulated("no_estimate", estimate=None),
        simulated("broken", checked=False, note="WRONG ..."),
        simulated("flash", checked=False, refused="declines: D = 20"),
    ]
    less = COUNTED | {"estimated_ms_h200": 0.0824}
    lines = printed(rows, {"tiled": Previous(None, None, less)})
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in "".join(lines)
    assert "…" not in "".join(lines)
    assert lines[0] == "title"
    assert len(lines) == 8  # title, two heading lines, five rows: nothing is wrapped
    assert line_of("tiled", lines) == (
        "tiled 1.2% 123 M 16.5/4 528 MB x672 x2.50 x1.00 50% 41.2 us -50% latency".split()
    )
    assert line_of("no_estimate", lines)[-4:] == ["x1.00", "-", "-", "-"]
    assert line_of("broken", lines) == ["broken", "WRONG"]
    assert line_of("flash", lines) == "flash declines: D = 20".split()


def test_a_narrow_table_leaves_out_what_matters_least():
    rows = [simulated("block_per_row"), simulated("tiled")]
    entries = [columns.Entry(row) for row in rows]
    every = columns.columns(rows[0])

    def titles(width: int) -> set[str]:
        return {" ".join(c.title.split()) for c in columns.fitting(every, entries, width)}

    everything = titles(1000)
    assert everything - titles(92) == {"FLOP"}
    assert everything - titles(85) == {"FLOP", "warp instr."}
    least = everything - {"FLOP", "warp instr.", "occ.", "error"}
    assert titles(60) == titles(10) == least


def test_a_narrow_terminal_cuts_nothing(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    file = io.StringIO()
    file.isatty = lambda: True  # type: ignore[method-assign]
    rows = [simulated("block_per_row"), simulated("tiled")]
    shown = columns.columns(rows[0])
    entries = [columns.Entry(row) for row in rows]
    show("title", [c.title for c in shown], list(columns.cells(shown, entries)), file)
    plain = printed(rows)
    escapes = re.compile(r"\x1b\[[0-9;]*m")
    assert [escapes.sub("", line) for line in file.getvalue().splitlines()] == plain


def test_a_table_of_bytes_fits_100_plain_columns():
    rows = [
        of_bytes("row_in_registers"),
        of_bytes("cub", estimate=None),
        of_bytes("slow", estimate=dataclasses.replace(ESTIMATE, time_ms=50.0)),
        of_bytes("naive", checked=False, refused="supports float32; got bfloat16"),
    ]
    less = BYTES | {"estimated_ms_h200": 0.0824}
    lines = printed(rows, {"row_in_registers": Previous(None, None, less)})
    assert max(map(len, lines)) <= 100
    # 2 MiB in 41.2 us are 50.9 GB/s of 4800
    assert (
        lines[3].split()
        == (
            "row_in_registers 1.2% 123 M 4.19 MB x2.00 3.67 MB x1.75 50% 41.2 us 1.1% -50% latency"
        ).split()
    )
    assert lines[4].split()[-4:] == ["-"] * 4
    assert lines[5].split()[-4:] == ["ms", "<0.1%", "new", "latency"]
    assert lines[6].split() == "naive supports float32; got bfloat16".split()


def test_a_reason_may_be_longer_than_a_table_is_wide():
    reason = "declines: " + "as long a reason as it takes " * 5
    rows = [simulated("tiled"), simulated("flash", checked=False, refused=reason.strip())]
    lines = printed(rows)
    assert lines[-1] == f"flash  {reason.strip()}"
    assert printed(rows[:1])[-1] == lines[-2]  # and the table is as wide as without it


def test_a_gpu_s_table_of_bytes_fits_100_plain_columns():
    ratios = {"torch": 1.234, "compile": 1.05, "copy": 0.915}
    given = {"op": "softmax", "shape": ROWS, "unit": "gbps"}
    traffic = Traffic(1 << 21, 1, 1.02)
    rows = [
        timed("row_in_registers", ratios=ratios, roof_fraction=0.85, traffic=traffic, **given),
        timed("copy", baseline=True, roof_fraction=0.9, share=None, ratios={"torch": 2.0}, **given),
    ]
    lines = printed(rows, {"row_in_registers": Previous(1.5, 0.02, {})})
    assert max(map(len, lines)) <= 100
    assert lines[3].split() == (
        "row_in_registers 50% 1.23 ms 0.81% 51.2 85% x1.00 x1.02 1.23x 1.05x 0.92x -17.7%".split()
    )
    assert lines[4].split() == "copy - 1.23 ms 0.81% 51.2 90% 2.00x new".split()


def test_a_gpu_s_table_fits_100_plain_columns():
    rows = [
        timed("tiled", ratios={"cublas": 0.37}, roof_fraction=0.42),
        timed("cublas", baseline=True, roof_fraction=0.77),
    ]
    lines = printed(rows, {"tiled": Previous(1.5, 0.02, {})})
    assert max(map(len, lines)) <= 100
    assert lines[1].split() == ["vs"]
    assert lines[2].split() == "rung error time +- TFLOP/s roof cublas change".split()
    assert lines[3].split() == "tiled 50% 1.23 ms 0.81% 51.2 42% 0.37x -17.7%".split()


def test_a_long_name_widens_a_plain_table():
    name = "a_rung_that_was_given_a_very_long_and_telling_name"
    lines = printed([simulated(name)])
    assert name in lines[-1]
    assert "41.2 us" in lines[-1]


def test_a_page_s_table_has_as_many_cells_in_every_line():
    declined = {"checked": False, "refused": "declines: D = 20"}
    rows = [simulated("naive"), simulated("tiled", checked=False), simulated("flash", **declined)]
    text = columns.page_table(rows, columns.page_columns(rows))
    head, rule, naive, tiled, flash = text.splitlines()
    assert len({line.count("|") for line in (head, rule, naive, tiled, flash)}) == 1
    assert head.startswith("| rung | error | warp instr. | sectors/request | sector bytes |")
    assert "change" not in head  # a page has no previous run
    assert rule.startswith("| --- | ---: |")
    assert naive.endswith("| 16.5/4 | 528 MB x672 | x2.50 | x1.00 | 50% | 41.2 us | latency |")
    assert tiled.startswith("| tiled | WRONG |")
    assert flash.startswith("| flash | declines: D = 20 |")


def test_a_page_leaves_out_columns_without_figures():
    ratios = {"torch": 1.25}
    rows = [timed("x", op="softmax", shape=ROWS, unit="gbps", share=None, ratios=ratios)]
    titles = [column.title.split() for column in columns.page_columns(rows)]
    assert titles == [["rung"], ["time"], ["+-"], ["GB/s"], ["vs", "torch"]]
    refused = [timed("x", refused="declines: why", time_ms=None)]
    assert columns.page_table(refused, columns.page_columns(refused)).endswith("|  |")


def test_the_legend_of_bytes():
    legend = columns.legend(columns.columns(of_bytes("x")), "h200")
    assert "bytes moved: between multiprocessors and L2" in " ".join(legend.split())
    assert "an ESTIMATE" in legend
    gpu = columns.legend(columns.columns(timed("x", op="softmax", shape=ROWS)))
    assert "roof: share of the memory's peak" in " ".join(gpu.split())
    assert "ESTIMATE" not in gpu
    assert max(map(len, legend.splitlines() + gpu.splitlines())) <= 100


def test_the_legend_says_that_times_are_estimates():
    for gpu in GPUS.values():
        legend = columns.legend(columns.columns(simulated("x")), gpu.name)
        assert f"an ESTIMATE for the {gpu.title}, +-" in legend
        assert "nothing was measured" in legend
        assert max(map(len, legend.splitlines())) <= 100


def test_without_global_accesses_there_are_no_sectors():
    none = {"global_load_requests": 0, "global_store_requests": 0}
    assert columns.sectors_per_request(none) == "-"
    assert columns.sectors_per_request({}) == "-"


@pytest.mark.parametrize(
    ("now", "then", "text"),
    [(1.0, 1.05, "same"), (1.0, 2.0, "-50%"), (2.0, 1.0, "+100%"), (1.0, None, "new")],
)
def test_a_change_of_time_is_more_than_noise(now, then, text):
    row = timed("x", time_ms=now, spread=0.01)
    assert columns.time_change(columns.Entry(row, Previous(then, 0.1, {}))) == text
    assert columns.time_change(columns.Entry(row)) == "new"


def test_changes_of_counters():
    def change(name, last, same=0.0):
        previous = None if last is None else Previous(None, None, last)
        return columns.counter_change(columns.Entry(simulated("x"), previous), name, same)

    assert change("flops", None) == "new"
    assert change("global_bytes", COUNTED) == "="
    assert change("flops", {}) == "new"
    assert change("flops", {"flops": 0.0}) == "new"
    assert change("flops", {"flops": COUNTED["flops"] / 2}) == "+100%"


def test_changes_of_estimates():
    near = Previous(None, None, {"estimated_ms_h200": 0.0413})
    cell = columns.ESTIMATE_CHANGE.cell
    assert cell(columns.Entry(simulated("x"), near)) == "="
    assert cell(columns.Entry(simulated("x", estimate=None), near)) == ""


def test_an_entry_knows_its_operator_and_its_case():
    row = dataclasses.replace(simulated("tiled"), layout="nt")
    assert (columns.Entry(row).operator.name, columns.Entry(row).case.layout) == ("matmul", "nt")
    case = columns.Entry(dataclasses.replace(of_bytes("x"), options="scale=0.5 log")).case
    assert case.text == f"{ROWS} scale=0.5 log"
    assert columns.Entry(of_bytes("x")).ideal_bytes == 1 << 21


def test_an_operator_may_show_more():
    for operator in operators.every():
        shape = ",".join(f"{name}=64" for name in operator.sizes)
        row = Row(operator.name, "x", shape, "float32", "simulator", True)
        titles = [" ".join(column.title.split()) for column in columns.columns(row)]
        assert len(set(titles)) == len(titles)
        if operator.columns:
            assert {columns.MORE[name] for name in operator.columns} <= set(columns.columns(row))
