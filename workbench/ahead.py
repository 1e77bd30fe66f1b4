"""Import this second in a script: what was edited compiles while PyTorch is imported.

That is as long as a small file compiles. Without a GPU only: to know what to build for one takes
PyTorch.
"""

import sys
from pathlib import Path

_GPU = ("/dev/nvidiactl", "/dev/dxg")  # what its drivers make, the second under Windows


def _target(words: list[str]) -> str | None:
    """The target that a command line chooses, as far as that is known without PyTorch."""
    if {"-h", "--help"} & {*words}:
        return None
    for i, word in enumerate(words):
        if word.startswith("--target"):
            chosen = word.partition("=")[2] or "".join(words[i + 1 : i + 2])
            return chosen if chosen in ("simulator", "cpu") else None
    return None if any(Path(device).exists() for device in _GPU) else "simulator"


def _is_script() -> bool:
    """Whether the program is one of the repository's scripts, not pytest or a notebook."""
    file = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    return file.name.startswith("test_") and file.resolve().parent == Path(__file__).parents[1]


if _is_script() and (_chosen := _target(sys.argv[1:])):
    from workbench.toolchain.library import build_ahead

    build_ahead(_chosen)
