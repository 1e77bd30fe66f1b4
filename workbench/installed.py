"""Import this first: it ends a script with one line if Python packages are missing."""

import importlib.util
import sys

import workbench.interrupted  # noqa: F401

NEEDED = ("torch", "pytest", "rich", "filelock", "safetensors")

_missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
if _missing:
    sys.exit(
        f"{sys.executable} has no {', '.join(_missing)}: activate the right environment, or "
        "pip install -r requirements.txt; python build.py doctor tells more"
    )
