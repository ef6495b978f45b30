"""Measured, fitted and estimated: the closed forms beside what the trials say."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.fitting.fit import Fit
from analysis.fitting.profile import Interval
from analysis.theory.closed_forms import OPTIMIZERS, factor
from cbs.errors import InputError, nearest


@dataclass(frozen=True)
class Theory:
    """The closed forms of Sato & Iiduka (ICML 2023) with one ratio r = σ_G²/ε_G³ for every curve.

    source: the name of the curve that r comes from. ratio: from its measured b*, as on the authors'
    slides. fitted_ratio and its 95 % interval: from its fitted b*. factors: b* = r · factor, by label.
    A carried value is an estimate, not a bound.
    """

    source: str
    ratio: float
    fitted_ratio: float | None
    fitted_ratio_ci: Interval
    factors: dict[str, float]

    def estimate(self, label: str) -> float | None:
        """b* from the source's measured b*; None where a curve has no closed form."""
        return None if label not in self.factors else self.ratio * self.factors[label]

    def fitted_estimate(self, label: str) -> tuple[float | None, Interval]:
        """b* from the source's fitted b*, with its interval carried through."""
        known = self.factors.get(label)
        if known is None:
            return None, (None, None)
        low, high = (None if end is None else end * known for end in self.fitted_ratio_ci)
        return None if self.fitted_ratio is None else self.fitted_ratio * known, (low, high)


def theory(fits: list[Fit], reference: str | None = None) -> Theory | None:
    """Closed forms for every curve of the same network whose facts are known, r taken from one of them.

    reference: the label or optimizer of that curve; without it Adam's, else the first with a measured b*.
    None where no curve can serve. Raises InputError where the named one can't.
    """
    factors = {one.curve.label: _factor(one) for one in fits if _has_closed_form(one)}
    able = [one for one in fits if one.curve.label in factors and one.measured_b_star is not None]
    if reference is not None:
        able = [one for one in able if reference in (one.curve.label, one.curve.optimizer)]
        if not able:
            known = [one.curve.label for one in fits if one.curve.label in factors]
            hint = nearest(reference, known) if known else "no curve's rate, parameters and data-set size are known"
            raise InputError(f"reference is {reference!r}: {hint}.")
    if not able:
        return None
    source = next((one for one in able if one.curve.optimizer == "adam"), able[0])
    known_factor = factors[source.curve.label]
    assert source.measured_b_star is not None
    same = {f.curve.label for f in fits if f.curve.facts.get("parameters") == source.curve.facts["parameters"]}
    factors = {label: value for label, value in factors.items() if label in same}
    low, high = (None if end is None else end / known_factor for end in source.b_star_ci)
    fitted = None if source.b_star is None else source.b_star / known_factor
    return Theory(source.curve.name, source.measured_b_star / known_factor, fitted, (low, high), factors)


def _has_closed_form(one: Fit) -> bool:
    return one.curve.optimizer in OPTIMIZERS and {"lr_generator", "parameters", "dataset_size"} <= set(one.curve.facts)


def _factor(one: Fit) -> float:
    facts = one.curve.facts
    betas = {k: facts[k] for k in ("beta1", "beta2") if k in facts}
    return factor(one.curve.optimizer, facts["lr_generator"], facts["parameters"], facts["dataset_size"], **betas)
