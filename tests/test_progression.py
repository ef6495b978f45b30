"""`2,4,...,1024`: what the dots expand to, and what is refused."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbs.errors import InputError
from launch.progression import expand


def expanded(text: str) -> list[str]:
    return expand("b", text.split(","))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("2,4,...,1024", "2,4,8,16,32,64,128,256,512,1024"),
        ("16,32,...,256", "16,32,64,128,256"),
        ("1,2,...,10", "1,2,3,4,5,6,7,8,9,10"),
        ("1,2,...,8", "1,2,4,8"),
        ("1,2,3,...,8", "1,2,3,4,5,6,7,8"),
        ("2,4,6,...,20", "2,4,6,8,10,12,14,16,18,20"),
        ("2,4,8,...,64", "2,4,8,16,32,64"),
        ("0.1,0.2,...,1.0", "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1"),
        ("1e-4,1e-3,...,0.1", "0.0001,0.001,0.01,0.1"),
        ("64,32,...,2", "64,32,16,8,4,2"),
        ("10,8,...,2", "10,8,6,4,2"),
        ("-1,-2,...,-8", "-1,-2,-4,-8"),
        ("1,3,2,4,...,8,100", "1,3,2,4,8,100"),
        ("adam,2,4,...,8", "adam,2,4,8"),
        ("1,2,...,4,10,20,...,40", "1,2,4,10,20,40"),
        ("9,6,...,4", "9,6,4"),
    ],
)
def test_expands(text: str, values: str) -> None:
    assert expanded(text) == values.split(",")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2,4,...,1000", "...,1000"),
        ("2,6,...,51", "write 2,6,...,50 or 2,6,...,54"),
        ("2,4,6,...,21", "write 2,4,6,...,20"),
        ("1,2,4,...,9", "write 1,2,4,...,8"),
        ("1,2,5,...,9", "neither a geometric nor an arithmetic"),
        ("2,...,8", "two numbers before it"),
        ("2,4,...", "a last term after it"),
        ("a,b,...,z", "two numbers before it"),
        ("2,2,...,2", "no progression that starts with 2,2"),
        ("4,2,...,64", "no progression that starts with 4,2"),
        ("1,2,...,100", "three leading terms"),
    ],
)
def test_refuses_in_one_sentence(text: str, words: str) -> None:
    if text == "2,4,...,1000":  # arithmetic lands, but has 500 values
        words = "500 values"
    with pytest.raises(InputError) as refused:
        expanded(text)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_three_leading_terms_allow_many_values() -> None:
    assert len(expanded("1,2,3,...,100")) == 100


@given(st.integers(1, 50), st.integers(2, 5), st.integers(3, 8))
def test_geometric_progressions_are_exact(first: int, ratio: int, length: int) -> None:
    terms = [first * ratio**i for i in range(length)]
    assert expanded(f"{terms[0]},{terms[1]},...,{terms[-1]}") == [str(t) for t in terms]


@given(st.decimals(-10, 10, places=3), st.decimals("0.001", 3, places=3).filter(lambda d: d != 0), st.integers(3, 40))
def test_arithmetic_progressions_end_where_asked(first: Decimal, step: Decimal, length: int) -> None:
    terms = [first + i * step for i in range(length)]
    values = [Decimal(v) for v in expanded(f"{terms[0]},{terms[1]},{terms[2]},...,{terms[-1]}")]
    assert values[-1] == terms[-1]
    assert values[:3] == terms[:3]
