"""Shapes as text."""

import pytest

from workbench.operations import ATTENTION, MATMUL, SOFTMAX
from workbench.operators.shapes import ShapeError, parse_shape


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("M=1,N=2,K=3", "M=1,N=2,K=3"),
        ("K=3, M=1 ,N=2", "M=1,N=2,K=3"),
        ("M=0,N=0,K=0", "M=0,N=0,K=0"),
    ],
)
def test_parse(text, written):
    shape = parse_shape(text, MATMUL.keys)
    assert str(shape) == written
    assert parse_shape(str(shape), MATMUL.keys) == shape


def test_optional_names_are_written_only_if_set():
    plain = parse_shape("B=1,H=2,Nq=3,Nk=4,D=5", ATTENTION.keys)
    assert str(plain) == "B=1,H=2,Nq=3,Nk=4,D=5"
    assert parse_shape("B=1,H=2,Nq=3,Nk=4,D=5,causal=0", ATTENTION.keys) == plain
    causal = parse_shape("causal=1,B=1,H=2,Nq=3,Nk=4,D=5", ATTENTION.keys)
    assert str(causal) == "B=1,H=2,Nq=3,Nk=4,D=5,causal=1"


def test_optional_names_are_0_or_1():
    with pytest.raises(ShapeError, match=r"log is '2', not 0 or 1; write .*\[,log=1\]\[,lse=1\]"):
        parse_shape("rows=1,cols=2,log=2", SOFTMAX.keys)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' is not NAME=NUMBER"),
        ("64x64", "'64x64' is not NAME=NUMBER"),
        ("M=1,N=2", "K missing"),
        ("M=1,N=2,K=3,Q=4", "unknown name 'Q'"),
        ("M=1,M=2,N=2,K=3", "M is given twice"),
        ("M=1,N=-2,K=3", "N is '-2', not a whole number"),
        ("M=1,N=x,K=3", "N is 'x', not a whole number"),
    ],
)
def test_errors_show_the_format_in_one_line(text, why):
    with pytest.raises(ShapeError) as error:
        parse_shape(text, MATMUL.keys)
    message = str(error.value)
    assert why in message
    assert "write M=..,N=..,K=.., for example M=64,N=64,K=64" in message
    assert "\n" not in message
