"""The page of --html in a browser: it fits, sorts, colours and is readable, light and dark."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.browser import Browser, browser
from tests.records import BARRIER, LOAD, TWICE, launch, line, write_kernel
from workbench.explain import Report, explain, page

pytestmark = pytest.mark.browser

THEMES = ("light", "dark")


@pytest.fixture
def chromium(tmp_path: Path) -> Browser:
    return Browser(browser() or "", tmp_path / "browser")


@pytest.fixture
def shown(tmp_path: Path) -> str:
    """A page with two rungs; the first has two regions."""
    file = write_kernel(tmp_path)
    load = {"global_load_requests": 100, "global_load_sectors": 3200}
    load |= {"global_load_sectors_ideal": 400, "global_load_bytes": 12800}
    load |= {"global_load_lines": 3200}
    lines = (
        line(file, LOAD, warp_instructions=100, **load),
        line(file, BARRIER, warp_instructions=8, barriers=8),
        line(file, TWICE, warp_instructions=500, fp32_instructions=100, flops=3200),
    )
    kernels = explain([launch(*lines)])
    about = {"case": "M=256,N=256,K=256", "dtype": "float32", "kernels": kernels}
    reports = [Report("matmul", rung, **about) for rung in ("first", "second")]
    return page.render(reports, "python test_matmul.py --html page.html")


def themed(page_text: str, theme: str) -> str:
    return page_text.replace('<html lang="en">', f'<html lang="en" data-theme="{theme}">')


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_the_page_is_as_wide_as_the_window(chromium, shown, width):
    seen = chromium.look(
        shown,
        """
        const box = page.querySelector(".box");
        return { wide: page.documentElement.scrollWidth, view: view.innerWidth,
                 box: box.clientWidth, inside: box.scrollWidth,
                 rows: all("section:not([hidden]) .line").length };
        """,
        width,
    )
    assert seen["view"] == width
    assert seen["wide"] <= width
    assert seen["rows"] == 14
    if width < 400:
        assert seen["inside"] > seen["box"]  # the source scrolls in its box


@pytest.mark.parametrize("width", [390, 1280])
def test_line_and_cost_stay_in_view_beside_each_other(chromium, shown, width):
    seen = chromium.look(
        shown,
        """
        const box = page.querySelector(".box");
        const edges = () => {
          const [line, cost] = page.querySelector(".hottest").cells;
          const [a, b] = [line.getBoundingClientRect(), cost.getBoundingClientRect()];
          return [a.left - box.getBoundingClientRect().left, b.left - a.right];
        };
        const before = edges();
        box.style.width = "300px";
        box.scrollLeft = 200;
        return { before, after: edges(), scrolled: box.scrollLeft };
        """,
        width,
    )
    assert seen["scrolled"] == 200
    for left, gap in (seen["before"], seen["after"]):
        assert left == pytest.approx(1, abs=0.5)  # the box's border
        assert gap == pytest.approx(0, abs=0.5)


NUMBERS = """
    const head = (text) => all("thead button").find((b) => b.textContent === text);
    const numbers = () => all("#r0k0 .line:not([hidden])").map((row) => row.cells[0].textContent);
    const order = (text) => { head(text).click(); return numbers().map(Number); };
"""


def test_columns_sort_the_lines_and_the_line_column_restores_them(chromium, shown):
    seen = chromium.look(
        shown,
        NUMBERS
        + """
        const before = numbers().map(Number);
        return { before, down: order("instr."), up: order("instr."), sort: head("instr.")
                   .closest("th").getAttribute("aria-sort"),
                 files: all("#r0k0 .file:not([hidden])").length,
                 after: order("line"), back: all("#r0k0 .file:not([hidden])").length,
                 button: head("cost").tagName };
        """,
    )
    lines = [*range(14, 25), 8, 9, 10]
    assert seen["before"] == seen["after"] == lines
    assert seen["down"] == [TWICE, LOAD, BARRIER]
    assert seen["up"] == [BARRIER, LOAD, TWICE]
    assert (seen["sort"], seen["files"], seen["back"]) == ("ascending", 0, 2)
    assert seen["button"] == "BUTTON"  # so that Tab and Enter reach it


def test_the_choice_of_heat_colours_other_lines(chromium, shown):
    hottest = 'all("#r0k0 .hottest").map((row) => Number(row.cells[0].textContent))'
    seen = chromium.look(
        shown,
        f"""
        const before = {hottest};
        const select = page.querySelector("select");
        select.value = [...select.options].find((o) => o.text.includes("instructions")).value;
        select.dispatchEvent(new view.Event("change"));
        return {{ before, after: {hottest}, shown: !select.closest(".tools").hidden }};
        """,
    )
    assert seen == {"before": [LOAD], "after": [TWICE], "shown": True}


def test_one_rung_is_shown_at_a_time(chromium, shown):
    sections = 'all("section").map((section) => section.hidden)'
    seen = chromium.look(
        shown,
        f"""
        const tabs = all('[role="tab"]');
        const first = {sections};
        const key = new view.KeyboardEvent("keydown", {{ key: "ArrowRight", bubbles: true }});
        tabs[0].dispatchEvent(key);
        const second = {sections};
        tabs[0].click();
        return {{ first, second, third: {sections}, names: tabs.map((t) => t.textContent),
                 chosen: tabs.map((t) => t.getAttribute("aria-selected")) }};
        """,
    )
    assert (seen["first"], seen["second"]) == ([False, True], [True, False])
    assert seen["third"] == [False, True]
    assert seen["names"] == ["first", "second"]
    assert seen["chosen"] == ["true", "false"]


CONTRAST = """
    const context = page.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const solid = (...colours) => {  // colours painted on each other
      for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
      return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const luminance = (rgb) => rgb.map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ratio = (a, b) => {
      const [x, y] = [luminance(a), luminance(b)];
      return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    };
    const style = (selector) => view.getComputedStyle(page.querySelector(selector));
    const ground = style("body").backgroundColor;
    const surface = style(".box").backgroundColor;
    const tint = style(".hottest .source").backgroundImage.match(/color\\([^)]*\\)/)[0];
    const on = (selector, ...below) => ratio(solid(...below, style(selector).color),
      solid(...below));
"""


@pytest.mark.parametrize("theme", THEMES)
def test_text_stands_out_from_what_is_behind_it(chromium, shown, theme):
    seen = chromium.look(
        themed(shown, theme),
        CONTRAST
        + """
        return { body: on("h1", ground), quiet: on(".top p", ground), link: on("h4 a", surface),
                 text: on("h4", surface), fix: on(".fix b", surface), hot: on(".hottest .source",
                 ground, surface, tint), keyword: on(".keyword", surface),
                 head: on("thead button", surface), none: on(".none .source", surface),
                 theme: style("html").colorScheme,
                 button: page.getElementById("theme").textContent };
        """,
    )
    assert (seen.pop("theme"), seen.pop("button")) == (
        theme,
        "Light" if theme == "dark" else "Dark",
    )
    assert {name: ratio for name, ratio in seen.items() if ratio < 4.5} == {}


def test_the_button_changes_the_theme(chromium, shown):
    seen = chromium.look(
        shown,
        """
        const colour = () => view.getComputedStyle(page.body).backgroundColor;
        const first = colour();
        page.getElementById("theme").click();
        const second = colour();
        page.getElementById("theme").click();
        return [first, second, colour()];
        """,
    )
    assert seen[0] == seen[2] != seen[1]


def test_a_finding_leads_to_its_line(chromium, shown):
    seen = chromium.look(
        shown,
        """
        const link = page.querySelector("h4 a");
        link.click();
        await new Promise((done) => setTimeout(done, 100));
        return { link: link.getAttribute("href"), target: "#" + page.querySelector(":target").id,
                 line: page.querySelector(":target").cells[0].textContent };
        """,
    )
    assert seen["link"] == seen["target"]
    assert int(seen["line"]) == LOAD


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [390, 1280])
def test_it_can_be_looked_at(chromium, shown, tmp_path, theme, width):
    picture = chromium.picture(themed(shown, theme), tmp_path / "page.png", width=width)
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">I", picture[16:20]) == (max(width, 500),)
    assert len(picture) > 10_000  # not an empty page
