"""check, time and explain of a kernel from a string: numbers, texts, HTML; nothing is changed."""

from __future__ import annotations

import inspect
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import simulator
from build import inline, load
from tests.browser import Browser, browser
from workbench.estimate import GPUS
from workbench.harness import timing
from workbench.interactive import Function, html
from workbench.interactive.copies import ALIGNMENT, copied

# The checks of the call under test, not those of the whole run.
pytestmark = pytest.mark.checks(("memcheck",))

SOURCE = """
__global__ void scale_kernel(float* y, const float* x, float a, int n, int step) {
  const int i = step * (blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] = a * x[i];
}
void scale(float* y, const float* x, float a, int n, int step = 1) {
  scale_kernel<<<(n + 255) / 256, 256>>>(y, x, a, n, step);
}
__global__ void shift_kernel(float* y, const float* x) {
  y[threadIdx.x] = x[(threadIdx.x + 1) % 64];
}
void shift(float* y, const float* x) { shift_kernel<<<1, 64>>>(y, x); }
void twice(float* y, const float* x, float a, int n) {
  scale_kernel<<<(n + 255) / 256, 256>>>(y, x, a, n, 1);
  shift_kernel<<<1, 64>>>(y, x);
}
void nothing() {}
"""
N = 1024


@pytest.fixture(scope="module")
def module(module_cache):
    names = ["scale", "shift", "twice", "nothing"]
    return inline(SOURCE, names, target="simulator")


@pytest.fixture
def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(N), torch.arange(float(N))


def test_a_function_is_called_like_one(module, tensors):
    y, x = tensors
    scale = module.scale
    assert scale.__name__ == "scale" and callable(scale)
    assert str(inspect.signature(scale)) == "(y, x, a, n, step=1)"
    assert repr(scale) == "<scale(y, x, a, n, step=1) on the simulator>"
    assert scale(y, x, 3.0, n=N) is None
    assert torch.equal(y, 3 * x)


def test_nothing_that_is_passed_changes(module, tensors):
    y, x = tensors
    before = y.clone(), x.clone()
    assert module.scale.check(y, x, 3.0, N)
    module.scale.time(y, x, 3.0, N)
    module.scale.explain(y, x, 3.0, N)
    assert torch.equal(y, before[0]) and torch.equal(x, before[1])


def test_copies_share_what_was_shared():
    base = torch.arange(24.0)
    (first, second), other = copied(((base.view(4, 6)[:, 1:3], base[2:]), base.clone()))
    assert first.stride() == (6, 1) and torch.equal(first, base.view(4, 6)[:, 1:3])
    first[0, 1] = -1.0  # base[2]
    assert second[0] == -1.0 and other[2] == 2.0 and base[2] == 2.0
    assert (second.data_ptr() - 8) % ALIGNMENT == 0
    empty, none, expanded = copied((torch.ones(0, 3), None, torch.ones(1).expand(5)))
    assert empty.shape == (0, 3) and none is None and expanded.tolist() == [1.0] * 5


def test_a_finding_is_returned_and_not_raised(module, tensors):
    y, x = tensors
    found = module.scale.check(y, x, 3.0, N + 1)
    assert not found and not found.ok
    assert isinstance(found.finding, simulator.SimulatorError)
    assert (found.finding.kind, found.finding.line) == ("memcheck", 4)
    assert str(found).startswith("scale(y float32 [1024], x float32 [1024], a=3.0, n=1025): a find")
    assert "'x'" in str(found) and "\n  at scale.cu:4 " in str(found)
    assert "0x" in found._repr_html_() and repr(found) == str(found)


def test_all_checks_look_and_they_see_what_tensors_share(module):
    x = torch.arange(64.0)
    assert module.shift.check(torch.zeros(64), x)
    found = module.shift.check(x, x)
    assert found.finding.kind == "racecheck"
    assert torch.equal(x, torch.arange(64.0))
    module.shift(x, x)  # outside of check the run's settings count


def test_the_checks_of_inline_remain(module_cache):
    shift = inline(SOURCE, "shift", check="initcheck").shift
    x = torch.arange(64.0)
    assert shift.check(x, x).checks == ("memcheck", "initcheck")
    assert shift.check(x, x), "without racecheck there is nothing to find"


def test_a_call_without_a_kernel(module):
    assert "no kernel was launched" in str(module.nothing.check())
    time = module.nothing.time()
    assert time.time_ms is None and "no kernel was launched" in str(time)
    assert "no kernel was launched" in str(module.nothing.explain())
    assert "no kernel was launched" in module.nothing.explain()._repr_html_()


def test_an_estimate_says_that_it_is_one(module, tensors):
    y, x = tensors
    found = module.scale.time(y, x, 3.0, N)
    assert found.counters["global_load_bytes"] == found.counters["global_store_bytes"] == 4 * N
    assert found.counters["flops"] == N
    assert found.gpu == "h200" and found.limiter == "launch" and 0 < found.occupancy <= 1
    # at least as long as the memory takes
    assert found.time_ms > 8 * N / (GPUS["h200"].dram_gbps * 1e6)
    for text in (str(found), found._repr_html_()):
        assert "ESTIMATE" in text and "+-30%" in text and "H200" in text
    assert found.time_ms != module.scale.time(y, x, 3.0, N, gpu="t4").time_ms


def test_several_kernels_of_a_call(module, tensors):
    y, x = tensors
    found = module.twice.time(y, x, 3.0, N)
    assert [one.kernel.name for one in found.kernels] == ["scale_kernel", "shift_kernel"]
    assert found.counters["launches"] == 2
    assert found.time_ms > module.scale.time(y, x, 3.0, N).time_ms
    assert str(found).count("\nshift_kernel\n") == 1
    assert "of all cycles" in str(module.twice.explain(y, x, 3.0, N))


def test_a_sample_of_the_blocks(module):
    y, x = torch.zeros(1 << 16), torch.ones(1 << 16)
    whole = module.scale.time(y, x, 3.0, 1 << 16)
    some = module.scale.time(y, x, 3.0, 1 << 16, sample=8)
    assert some.counters["flops"] == whole.counters["flops"] == 1 << 16
    assert some.kernels[0].kernel.total.sampled_blocks == 8


def test_explain_finds_the_stride(module, tensors):
    y, x = tensors
    found = module.scale.explain(y, x, 3.0, N, 32)
    assert found.findings[0].kind == "stride"
    assert found.findings[0].places[0][1] == 4
    text = str(found)
    assert text.startswith("scale(y float32 [1024], x float32 [1024], a=3.0, n=1024, step=32)")
    assert "scale.cu\n" in text and "if (i < n) y[i] = a * x[i];" in text


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "scale: x is list; expected a tensor"),
        ({"x": torch.ones(4, requires_grad=True)}, ValueError, "x requires grad"),
        ({"x": torch.ones(4).to_sparse()}, ValueError, "x is a torch.sparse_coo tensor"),
        ({"x": torch.ones(4, dtype=torch.cfloat).conj()}, TypeError, "x is torch.complex64"),
        ({"n": "4"}, TypeError, "n is '4'; expected an integer"),
        ({"m": 1}, TypeError, "unexpected keyword argument 'm'"),
        ({"gpu": "h20"}, ValueError, "gpu is 'h20'; expected one of h200, "),
        ({"gpu": ["a100"]}, ValueError, "gpu is ['a100']; expected one of h200, "),
        ({"sample": -1}, ValueError, "sample is -1; expected a number of blocks"),
    ],
)
def test_wrong_arguments_raise(module, change: dict, error: type, message: str):
    arguments = {"y": torch.zeros(4), "x": torch.ones(4), "a": 1.0, "n": 4} | change
    for look in (module.scale.time, module.scale.explain):
        with pytest.raises(error, match=re.escape(message)):
            look(**arguments)
    if not {"gpu", "sample"} & change.keys():
        with pytest.raises(error, match=re.escape(message)):
            module.scale.check(**arguments)


def test_ipython_shows_messages_and_the_line_that_led_there(module, tensors):
    y, x = tensors
    with pytest.raises(TypeError) as error:
        module.scale(y, 1, 3.0, N)  # the line
    shown = error.value._render_traceback_()
    assert shown[0] == "TypeError: scale: x is int; expected a tensor for const float* x"
    assert re.fullmatch(r"  called in line \d+: module.scale\(y, 1, 3.0, N\)  # the line", shown[1])
    with pytest.raises(ValueError) as error:
        inline(SOURCE, "scal", target="simulator")
    assert error.value._render_traceback_()[0].startswith("ValueError: the source defines no fun")
    with pytest.raises(simulator.SimulatorError) as error:
        module.scale(y, x, 3.0, N + 1)
    shown = error.value._render_traceback_()
    assert shown[0].startswith("SimulatorError: memcheck: ") and "at scale.cu:4 " in shown[1]


def test_on_a_gpu_time_is_measured_and_the_rest_simulated(module, tensors, monkeypatch):
    """With a fake: what a GPU would run only notes its calls."""
    y, x = tensors
    calls = []
    function = Function(
        lambda *arguments, **named: calls.append((arguments, named)),
        "gpu",
        (),
        module.__compiled__,
        lambda: module.scale,
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Fake")
    monkeypatch.setattr(timing, "time_interleaved", _three_runs)
    found = function.time(y, x, 3.0, n=N)
    assert (found.time_ms, found.spread_ms, found.runs) == (0.5, 0.25, 3)
    assert str(found).endswith(": 500 us, median of 3 runs on NVIDIA Fake, spread 250 us")
    assert "500 us" in found._repr_html_() and "ESTIMATE" not in str(found)
    assert len(calls) == 3 and calls[0][1] == {"n": N}
    assert calls[0][0][0].data_ptr() != y.data_ptr(), "a copy"
    assert function.time(y, x, 3.0, N, gpu="t4").gpu == "t4"
    assert function.check(y, x, 3.0, N) and function.explain(y, x, 3.0, N).kernels
    assert len(calls) == 3, "the others ran on the simulator"


def _three_runs(runs, device):
    for _ in range(3):
        runs["it"]()
    return {"it": timing.Timing(0.5, 0.25, 3)}


def test_files_of_ones_own(module_cache, tmp_path: Path):
    (tmp_path / "block.cuh").write_text("constexpr int BLOCK = 64;\n")
    file = tmp_path / "own.cu"
    file.write_text(
        '#include "block.cuh"\n'
        "__global__ void own_kernel(float* y) { y[blockIdx.x * BLOCK + threadIdx.x] = 1; }\n"
        "void own(float* y) { own_kernel<<<2, BLOCK>>>(y); }\n"
    )
    own = load("own", [file], "own", target="simulator").own
    y = torch.zeros(128)
    own(y)
    assert y.sum() == 128
    found = own.check(y[:100])
    assert Path(found.finding.file) == file and found.finding.line == 2
    assert own.time(y).time_ms is not None, own.time(y).why


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (["own.py"], ValueError, "sources has 'own.py'; expected .cu and .cpp files"),
        ([], ValueError, "sources is empty"),
        (["no/such.cu"], FileNotFoundError, "no/such.cu"),
    ],
)
def test_files_that_are_none(files: list[str], error: type, message: str):
    with pytest.raises(error, match=message):
        load("own", files, "own", target="simulator")


# HTML.


class Elements(HTMLParser):
    """What is in a piece of HTML, and whether all that is opened is closed."""

    VOID = ("br", "meta", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def shown(module) -> list[str]:
    y, x = torch.zeros(N), torch.arange(float(N))
    scale = module.scale
    results = [scale.explain(y, x, 3.0, N, 32), scale.time(y, x, 3.0, N)]
    return [one._repr_html_() for one in (*results, scale.check(y, x, 1.0, N + 1))]


def test_html_needs_no_script_and_loads_nothing(shown):
    for text in shown:
        elements = Elements(text)
        assert elements.open == []
        assert not elements.names & {"script", "link", "iframe", "img", "button", "select"}
        assert not [name for name, _ in elements.attributes if name.startswith(("on", "src"))]
        targets = [value for name, value in elements.attributes if name == "href"]
        ids = [value for name, value in elements.attributes if name == "id"]
        assert {target.removeprefix("#") for target in targets} <= set(ids)
        assert len(ids) == len(set(ids))
        assert not re.search(r"url\(|@import|https?:", text)


def test_every_rule_of_the_style_is_nested():
    style = html._style()
    depth, outside = 0, ""
    for c in style:
        depth += (c == "{") - (c == "}")
        outside += c if depth == 0 else ""
    assert depth == 0 and outside.split() == [".workbench.workbench", "}"]
    assert ":root" not in style and "body {" not in style and "html {" not in style


def test_indentation_survives_converters(shown):
    assert '<td class="source hot">&nbsp;&nbsp;<span class="keyword">if</span>' in shown[0]


@pytest.mark.browser
@pytest.mark.parametrize(
    ("body", "light"),
    [("", True), ('data-jp-theme-light="false"', False), ('class="vscode-dark"', False)],
)
def test_in_a_notebook(shown, tmp_path: Path, body: str, light: bool):
    """The rest of the page stays as it is, and the output follows the notebook's theme."""
    rest = "<h3>Heading</h3><p>Text <code>x</code></p><table><tr><td>1</td></tr></table>"
    looks = """
        const one = (s) => view.getComputedStyle(page.querySelector(s));
        const kinds = ["font", "color", "margin", "padding", "backgroundColor"];
        const rest = ["h3", "p", "code", "table", "td"].map((s) =>
          kinds.map((kind) => one("#rest " + s)[kind]));
        const own = page.querySelector(".workbench");
        const bright = (c) => c.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765;
        const box = page.querySelector(".box table");
        return { rest, box: box ? box.rows[2].cells[2].innerText : null,
                 page: own ? bright(one(".workbench").backgroundColor) : null,
                 text: own ? bright(one(".workbench").color) : null };
    """
    program = Browser(browser() or "", tmp_path / "browser")
    frame = "<!DOCTYPE html><html><body {}><div id='rest'>{}</div>{}</body></html>"
    alone = program.look(frame.format(body, rest, ""), looks)
    seen = program.look(frame.format(body, rest, "".join(shown)), looks)
    assert seen["rest"] == alone["rest"]
    assert (seen["page"] > 0.8) == light and (seen["text"] < 0.3) == light
    assert seen["box"].startswith("__global__ void scale_kernel(")
