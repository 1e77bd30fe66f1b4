"""A page in headless Chromium: what a script sees in it at a given width, and a screenshot."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

NARROWEST = 500  # a window cannot be as narrow as a phone: such a page is shown in a frame
FRAME = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><title></title>
<style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style></head>
<body><iframe id="frame" width="{width}" height="{height}" srcdoc="{page}"></iframe></body></html>
"""
# Runs when the page has loaded; the title receives the script's return value.
SCRIPT = """<script>
addEventListener("load", async () => {{
  const frame = document.getElementById("frame");
  const view = frame ? frame.contentWindow : window;
  const page = view.document;
  const all = (selector) => [...page.querySelectorAll(selector)];
  let seen;
  try {{ seen = await (async () => {{ {script} }})(); }}
  catch (error) {{ seen = {{ error: String(error) }}; }}
  document.title = JSON.stringify(seen ?? null);
}});
</script></body>"""


def browser() -> str | None:
    """The path of Chromium or Chrome; None if there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


@dataclass(frozen=True)
class Browser:
    """Shows pages.

    Attributes:
        program: the browser.
        folder: for its profile and the pages.
    """

    program: str
    folder: Path

    def look(self, page: str, script: str, width: int = 1280, height: int = 900) -> Any:
        """The return value of a script that runs in the page, ``width`` pixels wide.

        In it ``page`` is the document, ``view`` its window, ``all(selector)`` a list of elements.
        """
        dom = self._run(page, script, width, height, "--dump-dom").decode()
        title = html.unescape(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1])
        seen = json.loads(title)
        assert not (isinstance(seen, dict) and "error" in seen), seen
        return seen

    def picture(
        self, page: str, file: Path, script: str = "", width: int = 1280, height: int = 900
    ) -> bytes:
        """A PNG screenshot of the page after a script has run in it."""
        self._run(page, script, width, height, f"--screenshot={file}")
        return file.read_bytes()

    def _run(self, page: str, script: str, width: int, height: int, *flags: str) -> bytes:
        self.folder.mkdir(exist_ok=True)
        file = self.folder / "frame.html"
        if width < NARROWEST:
            page = FRAME.format(width=width, height=height, page=html.escape(page, quote=True))
        before, _, after = page.rpartition("</body>")
        file.write_text(before + SCRIPT.format(script=script) + after)
        command = [
            self.program,
            "--headless",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            f"--user-data-dir={self.folder / 'profile'}",
            f"--window-size={max(width, NARROWEST)},{height}",
            "--virtual-time-budget=2000",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            *flags,
            file.as_uri(),
        ]
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
