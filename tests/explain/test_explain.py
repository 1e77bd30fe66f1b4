"""--explain and --html: the source shown, the findings and their order, the page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import takewhile
from pathlib import Path

import pytest

import simulator
from tests.records import BARRIER, LOAD, PRODUCT, STORE, TWICE, launch, line, write_kernel
from workbench import operators
from workbench.cli import main as cli
from workbench.estimate import GPUS, estimate
from workbench.estimate.machine_code import Op, Region
from workbench.estimate.resources import Resources
from workbench.explain import Report, annotate, command, explain, page, terminal
from workbench.explain.kernels import by_kernel
from workbench.explain.names import accesses
from workbench.operators.builds import rungs

SMALL = ("--shape", "M=64,N=64,K=64")
H200, T4 = GPUS["h200"], GPUS["t4"]
VOID = {"meta", "link", "br", "input", "img", "hr"}


@pytest.fixture
def kernel_file(tmp_path: Path) -> Path:
    return write_kernel(tmp_path)


def strided(file: Path) -> tuple:
    """Lines of a kernel that loads with a stride: 32 sectors where 4 would do."""
    load = {"global_load_requests": 100, "global_load_sectors": 3200}
    load |= {"global_load_sectors_ideal": 400, "global_load_bytes": 12800}
    load |= {"global_load_lines": 3200}
    store = {"shared_store_requests": 100, "shared_store_wavefronts": 3200}
    store |= {"shared_store_wavefronts_ideal": 100, "shared_store_bytes": 12800}
    return (
        line(file, LOAD, warp_instructions=400, **load, **store),
        line(file, BARRIER, warp_instructions=8, barriers=8),
        line(file, TWICE, warp_instructions=100, fp32_instructions=100, flops=3200),
    )


def only(*lines, **more):
    (explained,) = explain([launch(*lines, **more)])
    return explained


def finding(kind: str, *lines, **more):
    found = [f for f in only(*lines, **more).findings if f.kind == kind]
    assert len(found) == 1, kind
    return found[0]


# The source and its cost.


def test_functions_are_found_around_comments_strings_and_scopes(kernel_file):
    source = annotate.read(kernel_file)
    heads = [source.text(first).strip() for first, _ in source.functions]
    assert [head.split("(")[0] for head in heads] == [
        "__device__ float operator",
        "__device__ float twice",
        "template <int TILE>",
        "void unused",
    ]
    assert source.function(LOAD) == (14, 24)
    assert source.function(2) is None


def test_what_ran_is_shown_and_nothing_else(kernel_file):
    regions = only(*strided(kernel_file)).regions
    assert [(r.lines[0].number, r.lines[-1].number) for r in regions] == [(14, 24), (8, 10)]
    assert [region.path for region in regions] == [kernel_file, kernel_file]
    counted = {row.number: row.counters for region in regions for row in region.lines}
    assert counted[LOAD].global_load_sectors == 3200
    assert counted[LOAD + 4] is None
    assert "unused" not in "".join(row.text for region in regions for row in region.lines)


def test_a_stretch_that_did_not_run_is_left_out(tmp_path):
    file = tmp_path / "long.cu"
    body = "\n".join(f"  x += {i};" for i in range(60))
    file.write_text(f"__global__ void strided_kernel(float x) {{\n{body}\n}}\n")
    regions = only(line(file, 2), line(file, 50)).regions
    assert [(r.lines[0].number, r.lines[-1].number) for r in regions] == [(1, 4), (48, 62)]


def test_a_file_that_is_gone_has_figures_without_text(tmp_path):
    (region,) = only(line(tmp_path / "gone.cu", 7)).regions
    assert region.missing
    assert [(row.number, row.text) for row in region.lines] == [(7, "")]


def test_launches_of_a_kernel_are_added_up_over_ways_to_write_its_file(kernel_file):
    other = kernel_file.parent / "folder" / ".." / kernel_file.name
    launches = [launch(line(file, 20, barriers=3)) for file in (kernel_file, other)]
    (kernel,) = by_kernel(launches, H200)
    assert (kernel.launches, kernel.blocks, kernel.threads) == (2, 4, 64)
    assert list(kernel.lines) == [(str(kernel_file), 20)]
    assert kernel.lines[str(kernel_file), 20].barriers == kernel.total.barriers == 6
    other = launch(line(kernel_file, 20), block=(32, 1, 1))
    assert len(by_kernel([launches[0], other], H200)) == 2


def test_costs_are_those_of_the_gpu():
    """A T4 has 2 double-precision lanes where an H200 has 64."""
    load = {"global_load_requests": 400, "global_load_lines": 400, "global_load_sectors": 1600}
    record = launch(line("k.cuh", 1, **load), line("k.cuh", 2, fp64_instructions=200))
    for gpu, hottest in ((H200, 1), (T4, 2)):
        (kernel,) = by_kernel([record], gpu)
        assert max(kernel.lines.values(), key=kernel.cost).line == hottest
        assert sum(map(kernel.cost, kernel.lines.values())) == pytest.approx(1)


def test_accesses_cost_what_they_do_in_the_estimate():
    """For one block per SM; the machine code has PTX's widths."""
    counted = {"global_load_requests": 10**6, "global_load_lines": 3 * 10**6}
    counted |= {"global_store_requests": 10**6, "global_store_lines": 10**6}
    counted |= {"shared_load_requests": 10**6, "shared_load_wavefronts": 2 * 10**6}
    counted |= {"atomic_requests": 10**5, "atomic_sectors": 10**6}
    for gpu in (H200, T4):
        record = launch(line("k.cuh", 1, **counted), num_blocks=gpu.sms)
        machine = (Region(0, (Op("FFMA", "fma"),)),)
        found = estimate([record], {record.kernel: Resources(32, 0, machine=machine)}, gpu)
        (kernel,) = by_kernel([record], gpu)
        alone = 1e3 * gpu.seconds(1) / gpu.sms
        assert found.parts["L1"] == pytest.approx(kernel.work.sm.l1 * alone)
        assert found.parts["shared"] == pytest.approx(kernel.work.sm.shared * alone)


def test_what_the_gpu_has_no_tensor_cores_for_is_explained_nevertheless():
    record = launch(line("k.cuh", 1, tensor_flops=2**20), forms={"mma.sync.tf32": 32})
    for gpu in (H200, T4):
        (explained,) = explain([record], gpu)
        assert explained.kernel.cost(*explained.kernel.lines.values()) == 1


def test_the_arrays_of_a_line_and_how_lanes_step(kernel_file):
    source = annotate.read(kernel_file)
    by_name = {a.name: a for a in accesses(source, LOAD)}
    assert (by_name["in"].lane, by_name["in"].stride) == ("i", "stride")
    assert by_name["tile"].store
    assert (by_name["tile"].lane, by_name["tile"].stride) == ("threadIdx.x", "a row")
    assert [a.name for a in accesses(source, LOAD, shared=True)] == ["tile"]
    assert [a.text for a in accesses(source, PRODUCT)] == ["tile[threadIdx.x][1]"] + [
        "tile[0][threadIdx.x]"
    ]
    out, row = accesses(source, STORE, shared=False)
    assert (out.name, out.store, out.stride) == ("out", True, "1")
    assert (row.name, row.store, row.lane, row.stride) == ("row", False, "row", "stride")


def test_a_store_through_a_cast(tmp_path):
    file = tmp_path / "cast.cu"
    file.write_text("void f() {\n  *reinterpret_cast<float4*>(&C[i]) = A[i];\n}\n")
    found = accesses(annotate.read(file), 2)
    assert [(access.name, access.store) for access in found] == [("C", True), ("A", False)]


# Findings.


def test_a_stride_is_found_with_its_array_and_its_share(kernel_file):
    found = finding("stride", *strided(kernel_file))
    assert found.places == ((str(kernel_file), LOAD),)
    assert found.where() == f"line {LOAD}"
    assert found.title == (
        "in is read with a stride of stride: 32 sectors per request, 4 would do; 100% of the "
        "kernel's global traffic"
    )
    assert "i comes from threadIdx.x" in found.why


def test_a_bank_conflict_is_found(kernel_file):
    found = finding("bank conflict", *strided(kernel_file))
    assert found.title == (
        "tile is written with a 32-way bank conflict: 32 wavefronts per request, 1 would do; "
        "100% of the shared-memory time"
    )


def test_bank_conflicts_of_several_lines(kernel_file):
    two = {"shared_load_requests": 10, "shared_load_wavefronts": 20}
    four = {"shared_load_requests": 10, "shared_load_wavefronts": 40}
    lines = [
        line(kernel_file, number, shared_load_wavefronts_ideal=10, **counts)
        for number, counts in ((PRODUCT, two), (STORE, four))
    ]
    found = finding("bank conflict", *lines)
    assert [number for _, number in found.places] == [STORE, PRODUCT]
    assert "tile is read with bank conflicts: 3 wavefronts per request, 1 would do" in found.title


def test_a_sample_of_the_grid_is_said_to_be_one(kernel_file):
    facts = only(line(kernel_file, LOAD), num_blocks=4000, sampled_blocks=40).facts
    (sampled,) = (fact for fact in facts if fact.name == "sampled")
    assert (sampled.value, sampled.note) == ("40 blocks", "of 4.00 k ran; counters are scaled")


def test_loads_off_the_boundary_are_not_called_a_stride(kernel_file):
    counts = {"global_load_requests": 100, "global_load_sectors": 500}
    counts |= {"global_load_sectors_ideal": 400, "global_load_bytes": 12800}
    counts |= {"global_load_lines": 200}
    found = finding("stride", line(kernel_file, 1, **counts))
    assert found.title.startswith("global memory is read across sector boundaries: 5 sectors")


def test_idle_lanes(kernel_file):
    half = line(kernel_file, STORE, warp_instructions=30, thread_instructions=480)
    found = finding("idle lanes", half, line(kernel_file, LOAD, warp_instructions=70))
    assert found.places == ((str(kernel_file), STORE),)
    assert found.title == (
        "half of the lanes are idle: 16.0 of 32 are active on average; 30% of the kernel's "
        "instructions"
    )


def test_what_is_loaded_again_and_again(kernel_file):
    loads = {"global_load_requests": 1000, "global_load_sectors": 4000}
    loads |= {"global_load_sectors_ideal": 4000, "global_load_bytes": 128000}
    lines = line(kernel_file, LOAD, warp_instructions=1000, **loads)
    found = finding("reuse", lines, dram_read_bytes=4000)
    assert found.title == (
        "every element of in is loaded 32 times from global memory: 128 kB requested, 4.00 kB "
        "would do"
    )
    assert not [f for f in only(lines, dram_read_bytes=128000).findings if f.kind == "reuse"]


def test_arithmetic_that_waits_for_shared_memory(kernel_file):
    loads = {"shared_load_requests": 2000, "shared_load_wavefronts": 2000}
    loads |= {"shared_load_wavefronts_ideal": 2000, "shared_load_bytes": 256000}
    product = line(
        kernel_file,
        PRODUCT,
        warp_instructions=3000,
        fp32_instructions=1000,
        flops=64000,
        **loads,
    )
    found = finding("shared memory", product)
    # 1000 FMA instructions at 4 per cycle are 250 of the loads' 2000 cycles.
    assert found.title == (
        "2 loads of tile per arithmetic instruction, 0.25 FLOP per byte of shared "
        "memory: the arithmetic units are busy about 12% of the time"
    )


@pytest.mark.parametrize(
    ("kind", "counts", "words"),
    [
        ("barriers", {"barriers": 10, "warp_instructions": 100}, "a barrier every 10 instr"),
        (
            "special functions",
            {"special_function_instructions": 20, "special_function_ops": 640},
            "640 special functions",
        ),
        ("local memory", {"local_bytes": 4096, "local_sectors": 128}, "4.10 kB of local memory"),
        (
            "atomics",
            {"atomics": 320, "atomic_requests": 10, "atomic_sectors": 10},
            "320 atomic operations: 32 lanes of a warp in 1 sector",
        ),
        (
            "overhead",
            {"integer_instructions": 20, "fp32_instructions": 4, "control_instructions": 4},
            "75% of the instructions compute addresses and control loops, 12% the result",
        ),
        (
            "narrow loads",
            {
                "global_load_requests": 32,
                "global_load_sectors": 128,
                "global_load_sectors_ideal": 128,
                "global_load_bytes": 4096,
            },
            "global memory is loaded 4 bytes at a time: 32 requests where 8 of 16 bytes would do",
        ),
    ],
)
def test_other_findings(kernel_file, kind, counts, words):
    assert words in finding(kind, line(kernel_file, 1, **counts)).title


def test_three_findings_at_most_the_costliest_first(kernel_file):
    many = {"barriers": 10, "special_function_instructions": 3, "special_function_ops": 96}
    many |= {"local_bytes": 4096, "local_sectors": 128, "thread_instructions": 32}
    findings = only(*strided(kernel_file), line(kernel_file, STORE, **many)).findings
    assert len(findings) == 3
    assert [f.gain for f in findings] == sorted((f.gain for f in findings), reverse=True)


def test_nothing_to_say_of_a_kernel_that_only_computes(kernel_file):
    explained = only(line(kernel_file, TWICE, fp32_instructions=32, flops=2048))
    assert explained.findings == ()


# Printed.


def printed(capsys, *kernels, **about) -> str:
    terminal.show([Report("matmul", "strided", "M=1", "float32", kernels, **about)])
    return capsys.readouterr().out


def test_the_source_is_printed_with_its_counters(kernel_file, capsys):
    out = printed(capsys, only(*strided(kernel_file)))
    assert max(map(len, out.splitlines())) <= 100
    assert re.search(
        rf"^>> +{LOAD} +\d+% +79% +32 \(4\) +100% +32 \(1\) +100%    tile\[threadIdx.x\]\[0\] = in",
        out,
        flags=re.MULTILINE,
    )
    assert re.search(rf"^ +{TWICE} +<1% +20% +return 2.0f \* x;$", out, flags=re.MULTILINE)
    assert "1. line 20: in is read with a stride of stride" in out or "1. line 20: tile is" in out
    assert out.count("What to do: ") == len(only(*strided(kernel_file)).findings)
    assert "  grid           4 blocks of 64 threads\n" in out


def test_a_long_line_is_wrapped_and_nothing_is_lost(tmp_path, capsys):
    words = [f"word_{i}" for i in range(40)]
    file = tmp_path / "long.cu"
    file.write_text(f"void f() {{\n  x = {' + '.join(words)};\n}}\n")
    out = printed(capsys, only(line(file, 2)))
    assert max(map(len, out.splitlines())) <= 100
    assert re.findall(r"word_\d+", out) == words


def test_notes_follow_their_line(kernel_file, capsys):
    text = "the descriptor of A:\n  " + " ".join(f"word_{i}" for i in range(30))
    notes = tuple(simulator.Note(str(kernel_file), LOAD, note, False) for note in (text, "B <is>"))
    kernel = only(*strided(kernel_file), notes=notes)
    out = printed(capsys, kernel)
    assert max(map(len, out.splitlines())) <= 100
    lines = iter(out.splitlines())
    next(line for line in lines if "tile[threadIdx.x][0] = in" in line)
    said = [line.removeprefix("     | ") for line in takewhile(lambda s: "     | " in s, lines)]
    assert len(said) >= 4 and " ".join(said).split() == f"{text} B <is>".split()
    row = next(
        row for row in Page(page.render([report(kernel)], "")).lines() if row[0] == str(LOAD)
    )
    assert row[2] == f"  tile[threadIdx.x][0] = in[i * stride];{text}B <is>"


def test_a_wrong_rung_is_explained_and_said_to_be_wrong(kernel_file, capsys):
    out = printed(capsys, only(line(kernel_file, LOAD)), note="WRONG  strided", wrong=True)
    assert out.startswith("\nmatmul strided, M=1 float32\nWRONG  strided\n\nstrided_kernel<32>\n")


# The page.


class Page(HTMLParser):
    """Checks that tags are balanced, and collects ids, links, and table cells."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[tuple[dict[str, str | None], str]]] = []
        self.row_attributes: list[dict[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
            self.row_attributes.append(dict(attrs))
        if tag in ("td", "th"):
            self.rows[-1].append((dict(attrs), ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if "tr" in self.open and self.rows and self.rows[-1]:
            attributes, before = self.rows[-1][-1]
            self.rows[-1][-1] = (attributes, before + data)

    def lines(self) -> list[list[str]]:
        """The texts of the cells of each source line."""
        rows = zip(self.rows, self.row_attributes, strict=True)
        return [[text for _, text in row] for row, a in rows if "line" in (a.get("class") or "")]


def report(*kernels, **about) -> Report:
    return Report("matmul", "strided", "M=1,N=2,K=3", "float32", kernels, **about)


def test_the_page_has_a_row_for_each_line_with_the_records_figures(kernel_file):
    explained = only(*strided(kernel_file))
    shown = Page(page.render([report(explained)], "python test_matmul.py --html x.html"))
    assert [int(row[0]) for row in shown.lines()] == [*range(14, 25), 8, 9, 10]
    heads = [text for _, text in shown.rows[0]]
    row = next(row for row in shown.lines() if row[0] == str(LOAD))
    figures = dict(zip(heads, row, strict=False))
    assert heads.count("ideal") == 2
    assert figures["source"] == "  tile[threadIdx.x][0] = in[i * stride];"
    assert (figures["sectors"], row[heads.index("sectors") + 1]) == ("32", "4")
    assert (figures["waves"], row[heads.index("waves") + 1]) == ("32", "1")
    assert (figures["global"], figures["bytes"], figures["instr."]) == ("100%", "12.8 kB", "79%")
    assert all(len(row) == len(heads) for row in shown.lines())
    assert "barriers" in heads and "atomics" not in heads


def test_the_page_escapes_everything(kernel_file):
    nasty = "<script>alert('x & y')</script>"
    lines = [line(kernel_file, STORE), line(kernel_file.parent / "<i>.cu", 3)]
    explained = only(*lines, kernel=f"f<{nasty}>")
    text = page.render([report(explained, note=nasty, wrong=True)], nasty)
    assert "alert('x" not in text
    assert text.count("<script>") == 1
    shown = Page(text)
    assert '"<b>&amp;"' in "".join(shown.text)
    assert nasty in "".join(shown.text)


def test_the_page_needs_nothing_else(kernel_file):
    text = page.render([report(only(*strided(kernel_file)))], "python test_matmul.py")
    assert not re.search(r"https?://|url\(|@import|src=|fetch\(|XMLHttp", text)
    shown = Page(text)
    assert {tag for tag, _ in shown.attributes}.isdisjoint({"img", "iframe", "object", "embed"})
    assert [a["href"] for tag, a in shown.attributes if tag == "link"] == ["data:,"]


def test_links_of_the_page_lead_to_lines_and_ids_are_unique(kernel_file):
    explained = only(*strided(kernel_file))
    text = page.render([report(explained, explained), report(explained)], "python")
    shown = Page(text)
    ids = [a["id"] for _, a in shown.attributes if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in shown.attributes if tag == "a"]
    assert len(links) >= 3 * len(explained.findings)
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert {a["aria-controls"] for _, a in shown.attributes if "aria-controls" in a} <= set(ids)
    assert [a["data-table"] for tag, a in shown.attributes if tag == "select"] == [
        "r0k0",
        "r0k1",
        "r1k0",
    ]


# The ladders, on the simulator.


def explained_rung(name: str, rung_name: str, shape: str) -> Report:
    operator = operators.get(name)
    (rung,) = (rung for rung in rungs(name) if rung.name == rung_name)
    return command.report(operator, rung, operator.case(shape))


def findings_of(name: str, rung: str, shape: str) -> dict[str, str]:
    """The titles of a rung's findings by kind, in order."""
    (kernel,) = explained_rung(name, rung, shape).kernels
    return {finding.kind: finding.title for finding in kernel.findings}


CUBE = "M=128,N=128,K=128"


def test_naive_matmul_is_slow_because_lanes_lie_apart():
    found = findings_of("matmul", "naive", CUBE)
    assert list(found)[:2] == ["stride", "reuse"]
    # A step of a warp loads 32 floats of A, each in a separate sector, and one of B: 33 sectors for
    # 2
    # requests. Contiguous, the floats of A would fill 4 sectors: 5 for 2 requests.
    assert found["stride"].startswith(
        "A is read with a stride of a row: 16.5 sectors per request, 2.5 would do; 99"
    )


def test_coalesced_matmul_is_slow_because_it_loads_everything_again():
    found = findings_of("matmul", "coalesced", CUBE)
    assert "stride" not in found
    assert next(iter(found)) == "reuse"
    # 128^3 steps of 8 bytes, of 2 matrices of 128^2 floats.
    assert found["reuse"] == (
        "every element of A and B is loaded 128 times from global memory: 16.8 MB requested, "
        "131 kB would do"
    )


@pytest.mark.parametrize(("rung", "times"), [("tiled_16", 8), ("tiled", 4)])
def test_tiled_matmul_is_slow_because_arithmetic_waits_for_shared_memory(rung, times):
    found = findings_of("matmul", rung, CUBE)
    assert next(iter(found)) == "shared memory"
    assert found["shared memory"].startswith(
        "2 loads of A_smem and B_smem per arithmetic instruction, 0.25 FLOP per byte"
    )
    # Each float is loaded once by each of the 128 / TILE blocks of its row or column.
    assert f"is loaded {times} times from global memory" in found["reuse"]


def test_the_findings_of_matmul_name_the_line_of_the_product():
    for rung in ("naive", "coalesced", "tiled_16", "tiled"):
        (kernel,) = explained_rung("matmul", rung, CUBE).kernels
        ((path, number), *_) = kernel.findings[0].places
        assert "acc += " in Path(path).read_text().splitlines()[number - 1]
        hottest = max(
            (line for region in kernel.regions for line in region.lines),
            key=lambda line: kernel.kernel.cost(line.counters) if line.counters else 0,
        )
        assert hottest.number == number


def test_softmax_goes_from_strides_to_barriers():
    shape = "rows=256,cols=256"
    assert next(iter(findings_of("softmax", "naive", shape))) == "stride"
    assert next(iter(findings_of("softmax", "block_per_row", shape))) == "barriers"


def test_a_rung_of_several_kernels():
    kernels = explained_rung("attention", "naive", "B=1,H=1,Nq=64,Nk=64,D=32").kernels
    assert len({one.kernel.name for one in kernels}) == len(kernels) > 2
    assert sum(one.part for one in kernels) == pytest.approx(1)


def test_time_and_occupancy_are_estimated():
    (kernel,) = explained_rung("matmul", "tiled", CUBE).kernels
    facts = {fact.name: fact for fact in kernel.facts}
    assert re.fullmatch(r"[\d.]+ [mu]s", facts["estimated time"].value)
    # A block of 1024 threads, of which an SM holds 2048.
    assert (facts["occupancy"].value, facts["occupancy"].note) == (
        "100%",
        "2 blocks on an SM; limit: warps",
    )


# The command line, on the simulator.


def test_explain_prints_one_rung(capsys):
    assert cli.main("matmul", ["--explain", "naive", *SMALL]) == 0
    out = capsys.readouterr().out
    assert out.startswith("target: simulator (kernels are counted there to be explained)\n")
    assert "matmul naive, M=64,N=64,K=64 float32" in out
    assert "coalesced" not in out
    assert max(map(len, out.splitlines())) <= 100


def test_html_explains_every_rung_on_one_page(tmp_path, capsys):
    file = tmp_path / "page.html"
    assert cli.main("matmul", ["--html", str(file), *SMALL]) == 0
    assert capsys.readouterr().out.endswith(f"\nwrote {file}\n")
    shown = Page(file.read_text())
    tabs = [a for _, a in shown.attributes if a.get("role") == "tab"]
    assert len(tabs) == len(rungs("matmul"))


def test_html_and_explain_together(tmp_path, capsys):
    file = tmp_path / "page.html"
    arguments = ["--html", str(file), "--explain", "naive", "--target", "gpu"]
    assert cli.main("softmax", [*arguments, "--shape", "rows=64,cols=64"]) == 0
    assert "softmax_naive_kernel" in capsys.readouterr().out
    shown = Page(file.read_text())
    assert [a for _, a in shown.attributes if a.get("role") == "tab"] == []


def test_a_rung_that_does_not_take_the_shape(capsys):
    shape = "B=1,H=1,Nq=9,Nk=10,D=300"
    assert cli.main("attention", ["--explain", "flash", "--shape", shape]) == 0
    reason = "flash did not run: it declines: its tiles are made for head dimensions up to 256"
    assert reason in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--explain", "fast"], "--explain fast: matmul has naive, "),
        (["--explain", "naive", "--kernel", "naive"], "--explain names the rungs itself"),
        (["--html", "/no/such/folder/x.html"], "--html /no/such/folder/x.html: there is no folder"),
        (["--html", "/tmp"], "--html /tmp: this is a folder"),
        (["--explain", "naive", "--json", "x.json"], "--json is for the table"),
    ],
)
def test_bad_flags_are_one_line(capsys, arguments, words):
    assert cli.main("matmul", arguments) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert words in captured.err
