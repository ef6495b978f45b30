"""Fits and estimates in words and tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from analysis.bounds import OPTIMIZERS, factor, power_of_two
from analysis.fit import Fit, Interval


@dataclass(frozen=True)
class Estimate:
    """The closed form's b* of one curve, with the ratio carried over from Adam's measured b*."""

    ratio: float
    b_star: float


def estimates(fits: list[Fit]) -> dict[str, Estimate]:
    """Closed-form estimates by curve label: r from Adam's measured b*, carried to every curve with a closed form.

    Empty where there is no Adam curve with a measured b*, or where a curve's facts are unknown (a CSV).
    """
    known = [f for f in fits if f.curve.optimizer in OPTIMIZERS and "lr_generator" in f.curve.facts]
    adam = next((f for f in known if f.curve.optimizer == "adam" and f.measured_b_star is not None), None)
    if adam is None or adam.measured_b_star is None:
        return {}
    ratio = adam.measured_b_star / _factor(adam.curve.optimizer, adam.curve.facts)
    return {f.curve.label: Estimate(ratio, ratio * _factor(f.curve.optimizer, f.curve.facts)) for f in known}


def _factor(optimizer: str, facts: dict[str, Any]) -> float:
    betas = {k: facts[k] for k in ("beta1", "beta2") if k in facts}
    return factor(optimizer, facts["lr_generator"], facts["parameters"], facts["dataset_size"], **betas)


def to_dict(fits: list[Fit]) -> dict[str, Any]:
    """What `--json` prints: every number finite or null."""
    carried = estimates(fits)
    curves = []
    for one in fits:
        row = one.to_dict()
        estimate = carried.get(one.curve.label)
        row["estimated_b_star"] = estimate.b_star if estimate else None
        row["ratio"] = estimate.ratio if estimate else None
        curves.append(row)
    cleaned = _finite({"curves": curves})
    assert isinstance(cleaned, dict)
    return cleaned


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text(fits: list[Fit]) -> str:
    """The answer as a table, with what must be said beside it."""
    carried = estimates(fits)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("curve", "FID", "runs", "censored", "measured b*", "fitted b* (95 %)", "N∞ (95 %)", "estimated b*"):
        table.add_column(name, justify="left" if name == "curve" else "right", no_wrap=True)
    for one in fits:
        estimate = carried.get(one.curve.label)
        table.add_row(
            one.curve.label,
            "" if one.curve.threshold is None else f"≤ {one.curve.threshold:g}",
            str(len(one.curve.frame)),
            str(one.censored),
            "–" if one.measured_b_star is None else _named(one.measured_b_star),
            _with_interval(one.b_star, one.b_star_ci),
            _with_interval(one.n_inf, one.n_inf_ci),
            _named(estimate.b_star) if estimate else "–",
        )
    console = Console(width=140)
    with console.capture() as capture:
        console.print(table)
    lines = [capture.get().rstrip(), ""]
    if carried:
        ratio = next(iter(carried.values())).ratio
        lines.append(f"estimated: closed forms of Sato & Iiduka (2023) with r = {ratio:.4g} from Adam's measured b*.")
    lines += [f"{one.curve.label}: {note}" for one in fits for note in one.notes]
    return "\n".join(lines)


def _named(b: float) -> str:
    """A batch size, and the nearest power of two as the slides write it."""
    return f"{b:.3g} (2^{power_of_two(b)})" if b >= 1 else f"{b:.2g}"


def _with_interval(value: float | None, interval: Interval) -> str:
    if value is None:
        return "–"
    low, high = interval
    if low is None:
        return _short(value) if high is None else f"≤ {_short(high)}"
    return f"≥ {_short(low)}" if high is None else f"{_short(value)} ({_short(low)}–{_short(high)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
