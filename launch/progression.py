"""`2,4,...,1024`: progressions among a sweep's choices.

Two leading terms mean the geometric progression where it lands on the last term, otherwise the
arithmetic one; three or more leading terms decide by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from cbs.errors import InputError

DOTS = "..."
# More values than this are rarely meant: they need three leading terms.
MOST = 50
_LIMIT = 10_000


def expand(name: str, terms: Sequence[str]) -> list[str]:
    """Replace every `a, b, ..., z` among the terms by the progression it stands for.

    `x, y, 2, 4, ..., 64` uses the numbers directly before the dots that belong together: the last
    three where they form a progression, otherwise the last two. Raises InputError where there are
    fewer than two, where the last term is missing or isn't landed on, or where it is over MOST long.
    """
    terms = list(terms)
    while DOTS in terms:
        at = terms.index(DOTS)
        if at + 1 >= len(terms):
            raise InputError(f"{name}: '...' needs a last term after it, as in {name}=2,4,...,1024.")
        leading, last = _leading(terms[:at]), _number(terms[at + 1])
        if len(leading) < 2 or last is None:
            raise InputError(f"{name}: '...' needs two numbers before it and one after, as in {name}=2,4,...,1024.")
        values = _progression(name, leading, last)
        terms[at - len(leading) : at + 2] = [_text(v) for v in values]
    return terms


def _number(term: str) -> Decimal | None:
    try:
        value = Decimal(term.strip())
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _leading(terms: Sequence[str]) -> list[Decimal]:
    """The numbers directly before the dots: three if they form a progression, else at most two."""
    numbers: list[Decimal] = []
    for term in reversed(terms[-3:]):
        value = _number(term)
        if value is None:
            break
        numbers.insert(0, value)
    if len(numbers) == 3:
        # With nothing else before them, three terms that form no progression are a mistake to speak of.
        if len(terms) == 3 or _is_arithmetic(numbers) or _is_geometric(numbers):
            return numbers
        return numbers[1:]
    return numbers


def _is_arithmetic(t: Sequence[Decimal]) -> bool:
    return t[1] - t[0] == t[2] - t[1]


def _is_geometric(t: Sequence[Decimal]) -> bool:
    return t[1] * t[1] == t[0] * t[2] and t[0] != 0


def _progression(name: str, leading: Sequence[Decimal], last: Decimal) -> list[Decimal]:
    kinds = [_geometric, _arithmetic]
    if len(leading) == 3:
        kinds = [k for k, fits in ((_geometric, _is_geometric), (_arithmetic, _is_arithmetic)) if fits(leading)]
        if not kinds:
            raise InputError(f"{name}: {_joined(leading)} is neither a geometric nor an arithmetic progression.")
    near: list[list[Decimal]] = []
    for kind in kinds:
        values = kind(leading[0], leading[1], last)
        if values and values[-1] == last:
            if len(values) > MOST and len(leading) < 3:
                raise InputError(
                    f"{name}: {_joined(leading)},...,{_text(last)} has {len(values)} values; "
                    f"for more than {MOST} write three leading terms."
                )
            return values
        if len(values) > len(leading):
            near.append(values)
    offers = [f"{_joined(leading)},...,{_text(end)}" for end in _nearest_ends(near, last)]
    offer = f": write {' or '.join(offers)}" if offers else ""
    raise InputError(f"{name}: no progression that starts with {_joined(leading)} lands on {_text(last)}{offer}.")


def _nearest_ends(candidates: list[list[Decimal]], last: Decimal) -> list[Decimal]:
    """The term nearest to `last` of each progression, nearest first, each value once."""
    ends = {min(values[-2:], key=lambda v: abs(v - last)) for values in candidates}
    if last == last.to_integral_value():
        ends = {end for end in ends if end == end.to_integral_value()} or ends
    return sorted(ends, key=lambda v: abs(v - last))


def _geometric(first: Decimal, second: Decimal, last: Decimal) -> list[Decimal]:
    """Terms up to and including the first at or past `last`; empty where the ratio leads nowhere."""
    if first == 0 or second / first <= 0 or second == first or (last - first) * (second - first) <= 0 or last == 0:
        return []
    if first * last < 0:
        return []
    values = [first]
    while (last - values[-1]) * (second - first) > 0 and len(values) <= _LIMIT:
        exact = first * second ** len(values) / first ** len(values)
        values.append(exact.normalize())
    return values


def _arithmetic(first: Decimal, second: Decimal, last: Decimal) -> list[Decimal]:
    """Terms up to and including the first at or past `last`; empty where the step leads away."""
    step = second - first
    if step == 0 or (last - first) * step <= 0:
        return []
    values = [first]
    while (last - values[-1]) * step > 0 and len(values) <= _LIMIT:
        values.append(first + step * len(values))
    return values


def _text(value: Decimal) -> str:
    if value == value.to_integral_value() and abs(value) < Decimal("1e15"):
        return str(int(value))
    return str(value.normalize()).replace("E", "e") if abs(value) < Decimal("1e-6") else f"{value.normalize():f}"


def _joined(terms: Sequence[Decimal]) -> str:
    return ",".join(map(_text, terms))
