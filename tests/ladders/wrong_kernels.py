"""The child process of test_wrong_kernels.py: checks rungs and prints the verdicts as JSON.

``python -m tests.ladders.wrong_kernels TARGET REQUESTS`` with REQUESTS = ``[[op, rung, shape, layout,
fill], ...]``. A process of its own, because a wrong kernel may end it or never return.
"""

import json
import sys

from workbench import check, ops
from workbench.operations import OPERATIONS


def verdict(target: str, name: str, rung: str, shape: str, layout: str, fill: str) -> dict:
    operation = OPERATIONS[name]
    found = next(r for r in ops.rungs(name) if r.name == rung)
    case = operation.case(shape, layout=layout, fill=fill)
    try:
        result = check.check_rung(operation, found, case, target)
    except check.StickyError as error:
        return {"ok": False, "report": f"WRONG  {error}"}
    return {"ok": result.ok, "report": result.report()}


def main() -> None:
    target, requests = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps([verdict(target, *request) for request in requests]))


if __name__ == "__main__":
    main()
