"""What a composed `batch_size` must obey, and its schedule as one of its typed kinds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from cbs.errors import InputError, counted, nearest
from cbs.schedules import POWERS, SCHEDULES, Constant, Growth, Schedule, Stall, rate_factor

_NAME = "batch_size.schedule"
# What a Growth may be given as, beside what it is made into.
_GIVEN = {Constant: {"kind"}, Growth: {"kind", "at", "factor", "sizes", "lr"}, Stall: {f.name for f in fields(Stall)}}


def schedule_of(raw: Mapping[str, Any], initial: int) -> Schedule:
    """The schedule that a config's plain values stand for: factors as sizes, rules of the learning rate as factors.

    So two ways of saying the same are one trial. Raises InputError at the first value that can't be.
    """
    kind = raw.get("kind")
    if kind not in SCHEDULES:
        raise InputError(f"{_NAME}.kind is {kind!r}: {nearest(str(kind), SCHEDULES)}.")
    schema = SCHEDULES[str(kind)]
    for name in raw:
        if name not in _GIVEN[schema]:
            raise InputError(f"{_NAME}.{name} is no setting of kind {kind!r}: {nearest(name, _GIVEN[schema])}.")
    if schema is Growth:
        return _growth(str(kind), raw, initial)
    return _stall(raw, initial) if schema is Stall else Constant("constant")


def _growth(kind: str, raw: Mapping[str, Any], initial: int) -> Growth:
    at = [_number("at", value, above=0, whole=kind == "steps") for value in _several("at", raw.get("at"))]
    if any(later <= earlier for earlier, later in itertools.pairwise(at)):
        raise InputError(f"{_NAME}.at is {_told(at)}: it must rise.")
    factor, given = raw.get("factor"), raw.get("sizes")
    if (factor is None) == (given is None):
        raise InputError(f"{_NAME}.factor is {factor}, sizes is {given}: exactly one of them must be given.")
    sizes = _each("sizes", given, at) if factor is None else _multiplied(initial, _each("factor", factor, at))
    found = [int(_number("sizes", size, above=0, whole=True)) for size in sizes]
    ratios = [later / earlier for earlier, later in itertools.pairwise([initial, *found])]
    rules = [_rate(rule) for rule in _each("lr", raw.get("lr", "constant"), at)]
    return Growth(kind, at, found, [rate_factor(rule, ratio) for rule, ratio in zip(rules, ratios, strict=True)])


def _multiplied(initial: int, factors: list[Any]) -> list[float]:
    found: list[float] = []
    for factor in factors:
        size = (found or [initial])[-1] * _number("factor", factor, above=0)
        if size != round(size) or size < 1:
            raise InputError(f"{_NAME}.factor is {factor}: it makes the batch size {size:g}, which is no whole number.")
        found.append(round(size))
    return found


def _stall(raw: Mapping[str, Any], initial: int) -> Stall:
    for name in _GIVEN[Stall]:
        if raw.get(name) is None:
            raise InputError(f"{_NAME}.{name} has no value here: give one.")
    most = int(_number("at_most", raw["at_most"], above=0, whole=True))
    if most < initial:
        raise InputError(f"{_NAME}.at_most is {most}: it must be at least batch_size.initial, {initial}.")
    factor = _number("factor", raw["factor"], above=1)
    if math.floor(initial * factor) == initial:
        raise InputError(f"{_NAME}.factor is {factor:g}: rounded down, it leaves a batch of {initial} as it is.")
    improvement = raw["improvement"]
    if not _is_number(improvement) or not 0 <= improvement < 1:
        raise InputError(f"{_NAME}.improvement is {improvement!r}: it must be a number, at least 0 and below 1.")
    evaluations = int(_number("evaluations", raw["evaluations"], above=0, whole=True))
    return Stall("stall", factor, most, evaluations, float(improvement), _rate(raw["lr"]))


def _several(name: str, value: Any) -> list[Any]:
    """A list as it is, a single value as a list of one."""
    if value is None:
        raise InputError(f"{_NAME}.{name} has no value here: give one.")
    found = list(value) if isinstance(value, list | tuple) else [value]
    if not found:
        raise InputError(f"{_NAME}.{name} is empty: give at least one value.")
    return found


def _each(name: str, value: Any, at: list[float]) -> list[Any]:
    """One value for each change, or one for all of them."""
    found = _several(name, value)
    if not isinstance(value, list | tuple) and name != "sizes":
        return found * len(at)
    if len(found) != len(at):
        needed = counted(len(at), "value")
        raise InputError(f"{_NAME}.{name} is {_told(found)}: it needs {needed}, one for each of at={_told(at)}.")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(name: str, value: Any, above: float, whole: bool = False) -> float:
    if not _is_number(value) or not value > above or (whole and value != round(value)):
        kind = f"a whole number above {above:g}" if whole else f"a number above {above:g}"
        raise InputError(f"{_NAME}.{name} is {value!r}: it must be {kind}.")
    return float(value)


def _rate(rule: Any) -> str | float:
    if isinstance(rule, str):
        if rule not in POWERS:
            raise InputError(f"{_NAME}.lr is {rule!r}: {nearest(rule, POWERS)}, or a factor.")
        return rule
    return _number("lr", rule, above=0)


def _told(values: list[Any]) -> str:
    return f"[{', '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in values)}]"
