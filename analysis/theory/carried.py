"""Measured, from the posterior, and estimated: the closed forms beside what the trials say."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.fitting.fit import Fit
from analysis.fitting.profile import Interval
from analysis.theory.closed_forms import OPTIMIZERS, factor
from cbs.errors import InputError, nearest


@dataclass(frozen=True)
class Theory:
    """The closed forms of Sato & Iiduka (ICML 2023) with one ratio r = σ_G²/ε_G³ for every curve.

    source: the name of the curve that r comes from. measured_ratio: from its measured b*, as on the authors' slides;
    None where two sizes can't be told apart. ratio, ratio_ci: from its b* and the whole 95 % set, None at an open end.
    factors: b* = r · factor, by label. A carried value is an estimate, not a bound.
    """

    source: str
    measured_ratio: float | None
    ratio: float
    ratio_ci: Interval
    factors: dict[str, float]

    def from_measured(self, label: str) -> float | None:
        """b* from the source's measured b*; None where there is none, or a curve has no closed form."""
        known = self.factors.get(label)
        return None if known is None or self.measured_ratio is None else self.measured_ratio * known

    def from_b_star(self, label: str) -> tuple[float | None, Interval]:
        """b* from the source's b*, with its set carried through."""
        known = self.factors.get(label)
        if known is None:
            return None, (None, None)
        low, high = (None if end is None else end * known for end in self.ratio_ci)
        return self.ratio * known, (low, high)


def theory(fits: list[Fit], reference: str | None = None) -> Theory | None:
    """Closed forms for every curve of the same network whose facts are known, r taken from one of them.

    reference: the label or optimizer of that curve; without it Adam's, else the first, of those whose b* can be told.
    None where no curve can serve. Raises InputError where the named one can't.
    """
    factors = {one.curve.label: _factor(one) for one in fits if _has_closed_form(one)}
    able = [one for one in fits if one.curve.label in factors and one.cheapest is not None]
    if reference is not None:
        able = [one for one in able if reference in (one.curve.label, one.curve.optimizer)]
        if not able:
            known = [one.curve.label for one in fits if one.curve.label in factors]
            hint = nearest(reference, known) if known else "no curve's rate, parameters and data-set size are known"
            raise InputError(f"reference is {reference!r}: {hint}.")
    if not able:
        return None
    told = [one for one in able if one.b_star_ci != (None, None)] or able
    source = next((one for one in told if one.curve.optimizer == "adam"), told[0])
    own, measured = factors[source.curve.label], source.measured_b_star
    assert source.b_star is not None
    same = {f.curve.label for f in fits if f.curve.facts.get("parameters") == source.curve.facts["parameters"]}
    factors = {label: value for label, value in factors.items() if label in same}
    low, high = (None if end is None else end / own for end in source.b_star_ci)
    return Theory(
        source.curve.name, None if measured is None else measured / own, source.b_star / own, (low, high), factors
    )


def _has_closed_form(one: Fit) -> bool:
    return one.curve.optimizer in OPTIMIZERS and {"lr_generator", "parameters", "dataset_size"} <= set(one.curve.facts)


def _factor(one: Fit) -> float:
    facts = one.curve.facts
    betas = {k: facts[k] for k in ("beta1", "beta2") if k in facts}
    return factor(one.curve.optimizer, facts["lr_generator"], facts["parameters"], facts["dataset_size"], **betas)
