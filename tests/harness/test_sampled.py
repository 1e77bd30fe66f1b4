"""Rungs of which a sample of the blocks runs: what is counted, and when they are called right."""

import dataclasses

import pytest

from workbench import rungs
from workbench.harness import checking, counting
from workbench.harness.checking import Tried
from workbench.operators import attention, matmul, softmax

MATMUL, SOFTMAX = matmul.OPERATOR, softmax.OPERATOR
RIGHT = Tried(share=0.25)


def no_estimate(launches):
    return lambda: "none"


def simulated(operator, text, *, sample, tried=RIGHT, names=None, dtype="float32"):
    ladder = [rung for rung in rungs(operator.name) if names is None or rung.name in names]
    by_name = {rung.name: tried for rung in ladder}
    case = operator.case(text, dtype=dtype)
    rows = counting.measure(operator, ladder, case, by_name, no_estimate, sample=sample)
    return {row.kernel: row for row in rows}


COUNTERS = ("warp_instructions", "flops", "l2_read_sectors", "l2_write_sectors", "barriers")


@pytest.mark.parametrize(
    ("operator", "text"),
    [
        (MATMUL, "M=128,N=192,K=64"),
        (attention.OPERATOR, "B=2,H=2,Nq=128,Nk=128,D=64"),
        (SOFTMAX, "rows=768,cols=1024"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_blocks_that_do_the_same_work_are_counted_as_if_all_ran(operator, text):
    whole, sample = simulated(operator, text, sample=0), simulated(operator, text, sample=2)
    for kernel, row in sample.items():
        assert row.refused == whole[kernel].refused
        assert row.sampled_blocks == 2
        if not row.refused:
            for name in COUNTERS:
                # Which lines of L1 evict each other depends on the tensors' addresses, which
                # differ between blocks and between runs.
                rel = 1e-2 if name == "l2_read_sectors" else 2e-3
                expected = pytest.approx(whole[kernel].counters[name], rel=rel)
                assert row.counters[name] == expected, (kernel, name)


def test_causal_blocks_are_sampled_well_enough():
    """Their work grows with the query: the operator asks for more of them."""
    operator = attention.OPERATOR
    text = "B=1,H=4,Nq=1024,Nk=1024,D=64 causal"
    only = {"names": ["flash"]}
    whole = simulated(operator, text, sample=0, **only)["flash"].counters
    sample = simulated(operator, text, sample=operator.sampled([operator.case(text)]), **only)[
        "flash"
    ].counters
    assert sample["flops"] == pytest.approx(whole["flops"], rel=0.15)


def test_a_rung_is_as_right_as_it_was_on_small_cases():
    row = simulated(MATMUL, "M=64,N=64,K=64", sample=1, names=["tiled"])["tiled"]
    assert (row.checked, row.share) == (True, 0.25)
    wrong = simulated(MATMUL, "M=64,N=64,K=64", sample=1, names=["tiled"], tried=Tried("WRONG"))
    assert (wrong["tiled"].checked, wrong["tiled"].note) == (False, "WRONG")
    assert wrong["tiled"].counters == {}


def test_what_no_small_case_checked_is_not_called_right():
    row = simulated(MATMUL, "M=64,N=64,K=64", sample=1, names=["tiled"], tried=Tried())["tiled"]
    assert not row.checked
    assert row.refused == "supports none of the operator's small cases, so it is not checked"


def test_a_finding_in_a_sampled_block_is_a_wrong_row(monkeypatch):
    def fail(*args):
        raise RuntimeError("an access outside of A")

    rung = next(rung for rung in rungs("matmul") if rung.name == "tiled")
    monkeypatch.setattr(type(MATMUL), "launch", fail)
    case = MATMUL.case("M=64,N=64,K=64")
    [row] = counting.measure(MATMUL, [rung], case, {"tiled": RIGHT}, no_estimate, sample=1)
    assert not row.checked
    assert "raised RuntimeError: an access outside of A" in row.note


def test_rungs_that_decline_or_lack_a_dtype_say_so():
    rows = simulated(SOFTMAX, "rows=4,cols=1024", sample=1, dtype="bfloat16")
    assert rows["cluster"].refused.startswith("declines: rows of 1024 columns fit into")
    assert rows["naive"].refused == "supports float32; got bfloat16"


def test_every_rung_takes_a_small_case():
    """Else it could not be shown at the default sizes."""
    for operator in (MATMUL, SOFTMAX, attention.OPERATOR):
        for rung in rungs(operator.name):
            for dtype in rung.dtypes:
                cases = operator.small_cases(dtype) + operator.edge_cases(dtype)
                assert any(took(operator, rung, case) for case in cases), (rung.name, dtype)


def took(operator, rung, case) -> bool:
    return checking.try_rungs(operator, [rung], [case], "simulator")[rung.name].share is not None


def test_steps_are_told():
    told: list[str] = []
    ladder, case = rungs("matmul"), MATMUL.case("M=8,N=8,K=8")
    checking.try_rungs(MATMUL, ladder, [case], "simulator", told.append)
    assert told == [f"{rung.name}, M=8,N=8,K=8" for rung in ladder]
    assert dataclasses.astuple(Tried()) == ("", None)
