"""Sizes and options as text."""

import dataclasses

import pytest

from workbench.operators.attention import OPERATOR as ATTENTION
from workbench.operators.matmul import OPERATOR as MATMUL
from workbench.operators.shapes import ShapeError, parse_options, parse_shape, written
from workbench.operators.softmax import OPERATOR as SOFTMAX


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("M=1,N=2,K=3", "M=1,N=2,K=3"),
        ("K=3, M=1 ,N=2", "M=1,N=2,K=3"),
        ("M=0,N=0,K=0", "M=0,N=0,K=0"),
    ],
)
def test_parse(text, back):
    shape = parse_shape(text, MATMUL.sizes)
    assert str(shape) == back
    assert parse_shape(str(shape), MATMUL.sizes) == shape


@pytest.mark.parametrize(
    ("words", "back"),
    [
        ([], ""),
        (["causal"], "causal"),
        (["scale=0.5", "causal"], "causal scale=0.5"),
        (["scale=-2"], "scale=-2"),
        (["scale=0.1234567890123"], "scale=0.1234567890123"),
    ],
)
def test_options(words, back):
    options = parse_options(words, ATTENTION.options)
    assert written(options) == back
    assert parse_options(written(options).split(), ATTENTION.options) == options


def test_a_number_at_its_plain_value_asks_for_nothing():
    assert parse_options(["scale=1"], SOFTMAX.options) == ()
    assert parse_options(["scale=1"], ATTENTION.options) == (("scale", 1.0),)  # plain: 1/sqrt(D)


def test_a_case_of_one_text_or_of_two():
    case = SOFTMAX.case("rows=4,cols=9 lse log", options="scale=0.5")
    assert case == SOFTMAX.case("rows=4,cols=9", options=["log", "lse", "scale=0.5"])
    assert case.text == "rows=4,cols=9 scale=0.5 log lse"
    assert SOFTMAX.case(case.text) == case
    assert (case.option("log"), case.option("scale", 1.0)) == (True, 0.5)
    plain = SOFTMAX.case("rows=4,cols=9")
    assert plain.option("log") is False
    assert plain.option("scale", 1.0) == 1.0


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
        MATMUL.case(text)
    message = str(error.value)
    assert why in message
    assert "write M=..,N=..,K=.., for example M=64,N=64,K=64" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("operator", "shape", "form"),
    [
        (SOFTMAX, "rows=4,cols=9,log=1", "log"),
        (SOFTMAX, "rows=4,cols=9,scale=0.5", "scale=NUMBER"),
        (ATTENTION, "B=1,H=1,Nq=2,Nk=3,D=4,causal=1", "causal"),
    ],
)
def test_an_option_among_the_sizes_is_an_error_that_shows_its_form(operator, shape, form):
    with pytest.raises(ShapeError, match=f"is an option, not a size; write --option {form}$"):
        operator.case(shape)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("casual", "unknown name 'casual'; the options are causal, scale=NUMBER"),
        ("causal=1", "option 'causal=1': write causal"),
        ("scale", "option 'scale': write scale=NUMBER"),
        ("scale=", "'' is not a finite number"),
        ("scale=half", "'half' is not a finite number"),
        ("scale=nan", "'nan' is not a finite number"),
        ("scale=inf", "'inf' is not a finite number"),
        ("causal causal", "causal is given twice"),
        ("scale=1 scale=2", "scale is given twice"),
    ],
)
def test_bad_options(words, why):
    with pytest.raises(ShapeError) as error:
        ATTENTION.case("B=1,H=1,Nq=2,Nk=3,D=4", options=words)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_an_operator_without_options_says_so():
    with pytest.raises(ShapeError, match="this operator has none"):
        dataclasses.replace(MATMUL, options=()).case("M=1,N=2,K=3 causal")
