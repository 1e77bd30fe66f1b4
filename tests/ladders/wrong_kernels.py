"""The child process of test_wrong_kernels.py: builds edited kernels and checks their rungs.

``python -m tests.ladders.wrong_kernels TARGET FILE``; the file holds a JSON list of builds:

    {"files": {name: text}, "requests": [[op, rung, shape, layout], ...]}

The files go to WORKBENCH_KERNELS, over those of the previous build. It prints each request's
verdict, a line of JSON, as soon as it is known. It is a separate process because a wrong kernel may
end it or never return.
"""

import json
import sys
from pathlib import Path

from workbench import operators
from workbench.harness import verify
from workbench.operators import builds
from workbench.toolchain import kernels_dir


def verdict(target: str, op: str, name: str, shape: str, layout: str) -> dict:
    operator = operators.get(op)
    rung = next(rung for rung in builds.rungs(op) if rung.name == name)
    dtype = "float32" if "float32" in rung.dtypes else rung.dtypes[0]
    case = operator.case(shape, dtype=dtype, **({"layout": layout} if layout else {}))
    try:
        result = verify.check_rung(operator, rung, case, target)
    except verify.StickyError as error:
        return {"ok": False, "report": f"WRONG  {error}"}
    return {"ok": result.ok and not result.refused, "report": result.report()}


def main() -> None:
    target, todo = sys.argv[1:]
    for build in json.loads(Path(todo).read_text()):
        for name, text in build["files"].items():
            file = kernels_dir() / name
            if not file.exists() or file.read_text() != text:
                file.write_text(text)
        builds.refresh(target)
        for request in build["requests"]:
            print(json.dumps(verdict(target, *request)), flush=True)


if __name__ == "__main__":
    main()
