"""HTML for the output of a notebook's cell: without scripts, without anything to load.

Its style is that of the page of --html, nested below one class so that it changes nothing else in
the notebook, and follows the notebook's theme. Without any style it remains readable.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from workbench.explain import Explained, page
from workbench.explain.report import Fact
from workbench.toolchain import fingerprints

# How notebooks say that they are dark: Jupyter and nbconvert, Visual Studio Code, Colab, Sphinx.
_DARK = (
    'body[data-jp-theme-light="false"], body.vscode-dark, body.vscode-high-contrast:not('
    '.vscode-high-contrast-light), html[theme="dark"], html[data-theme="dark"]'
)
_OWN = """
  padding: 0.6rem 0.9rem 0.8rem; border-radius: 8px; line-height: 1.5; font-size: 14px;
  .call { margin: 0; font: 0.86rem/1.5 var(--mono); color: var(--quiet); overflow-wrap: anywhere; }
  .value { margin: 0; font-size: 1.25rem; font-weight: 650; }
  .value small { font-size: 0.85rem; font-weight: 400; color: var(--quiet); margin-left: 0.5rem; }
  .value.good { color: var(--good); }
  .value.bad { color: var(--heat); }
  h3 { margin: 0.8rem 0 0.4rem; }
  pre.said { margin: 0.5rem 0 0; padding: 0.45rem 0.7rem; border-radius: 5px; color: var(--text);
    background: var(--surface); font: 0.82rem/1.6 var(--mono); white-space: pre-wrap;
    word-break: normal; overflow-wrap: anywhere; }
  .facts { margin: 0.5rem 0 0.8rem; }
  .facts dt { font-weight: 400; float: none; width: auto; padding: 0; }
  .facts dd { padding: 0; }
  .facts dd b { font-size: 1rem; }
  .findings { margin: 0.5rem 0; padding: 0; }
  .box table { table-layout: auto; margin: 0; }
  .box { max-height: 32rem; }
  .box th, .box td, .box tr { border: 0; }
  .box .plainhead { white-space: nowrap; }
"""

# What converters of notebooks take for space between tags.
_INDENTATION = re.compile(r'(?<=<td class="source hot">) +')


def framed(inner: str) -> str:
    """The output with its style."""
    return f'<div class="workbench">\n<style>\n{_style()}</style>\n{inner}\n</div>'


def heading(call: str, value: str, how: str, state: str = "") -> str:
    """The call, and its result in words; ``state`` is "good", "bad" or neither."""
    told = f" <small>{page.escaped(how)}</small>" if how else ""
    return (
        f'<p class="call">{page.escaped(call)}</p>\n'
        f'<p class="value {state}">{page.escaped(value)}{told}</p>\n'
    )


def preformatted(text: str) -> str:
    """A report as it is."""
    return f'<pre class="said">{page.escaped(text)}</pre>\n'


def kernel_name(explained: Explained) -> str:
    """A heading with the name of a kernel."""
    return f"<h3>{page.escaped(explained.kernel.name)}</h3>\n"


def facts(some: Sequence[Fact]) -> str:
    """Figures of a kernel."""
    return page.facts(some)


def explanation(call: str, kernels: Sequence[Explained]) -> str:
    """Kernels, explained: what --html shows of them, in the order of the source."""
    seen = [(one.kernel.name, one.facts, one.regions) for one in kernels]
    name = f"w{fingerprints.digest(call, seen)}"  # the same in every run
    parts = [page.kernel(one, f"{name}k{i}", script=False) for i, one in enumerate(kernels)]
    value = "" if kernels else "no kernel was launched"
    inner = _INDENTATION.sub(lambda found: len(found[0]) * "&nbsp;", "\n".join(parts))
    return framed(heading(call, value, "") + inner)


@functools.cache
def _style() -> str:
    """The page's style sheet, nested below one class."""
    text = (page.HERE / "page.css").read_text()
    # the notebook's theme counts, not the system's
    text = re.sub(r"@media \(prefers-color-scheme: dark\) \{.*?\n\}\n", "", text, flags=re.S)
    text = text.replace(':root[data-theme="dark"]', f":is({_DARK}) &").replace(":root", "&")
    text = re.sub(r"^html \{.*?\}\n", "", text, flags=re.S | re.M)
    text = re.sub(r"^body \{", "& {", text, flags=re.M)
    text = re.sub(r"^footer.*\n|^\.t(?:op|ools|abs)\b[^{]*\{[^}]*\}\n", "", text, flags=re.M)
    return f".workbench.workbench {{\n{text}{_OWN}}}\n"  # twice: it outweighs the notebook's own
