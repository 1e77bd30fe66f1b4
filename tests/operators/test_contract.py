"""A rung is its kernel: what every rung of every ladder launches, from the simulator's records.

A kernel belongs to a rung if its name starts with ``<op>_<rung>_``; of two such rungs, to the one
with the longer name.
"""

import pytest

import simulator
from workbench import operators, rungs
from workbench.harness import verify
from workbench.operators.builds import Rung

LADDERS = [(operator, rung) for operator in operators.every() for rung in rungs(operator.name)]


def kernels_of(operator, rung) -> set[str]:
    """The kernels that a rung launches on the operator's edge cases, including long rows."""
    with simulator.record() as launches:
        for case in operator.edge_cases(rung.dtypes[0]):
            verify.check_rung(operator, rung, case, "simulator").require()
    return {launch.kernel.partition("<")[0].rpartition("::")[2] for launch in launches}


def owner(kernel: str) -> Rung | None:
    """The rung that a kernel belongs to; None if it belongs to none."""
    owners = [rung for _, rung in LADDERS if kernel.startswith(f"{rung.op}_{rung.name}_")]
    return max(owners, key=lambda rung: len(f"{rung.op}_{rung.name}"), default=None)


def test_a_kernel_belongs_to_the_rung_with_the_longest_name():
    found = owner("softmax_cluster_pipelined_kernel")
    assert (found.op, found.name) == ("softmax", "cluster_pipelined")
    found = owner("softmax_backward_cluster_kernel")
    assert (found.op, found.name) == ("softmax_backward", "cluster")
    assert owner("softmax_kernel") is None


@pytest.mark.parametrize(
    ("operator", "rung"),
    LADDERS,
    ids=[f"{operator.name}-{rung.name}" for operator, rung in LADDERS],
)
def test_a_rung_launches_its_own_kernels_alone(operator, rung):
    kernels = kernels_of(operator, rung)
    own = {kernel for kernel in kernels if owner(kernel) == rung}
    assert own, f"it launched {kernels or 'nothing'}"
    others = {kernel: owner(kernel) for kernel in kernels - own}
    assert all(found and found.op in rung.composed_of for found in others.values()), others


def test_the_ladders_that_a_rung_is_composed_of_are_ladders():
    for operator, rung in LADDERS:
        assert set(rung.composed_of) <= operators.OPERATORS.keys() - {operator.name}, rung
