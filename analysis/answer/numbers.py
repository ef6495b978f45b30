"""The answer as numbers: what --json prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.answer.notes import notes
from analysis.answer.sentences import sentence
from analysis.fitting.difference import Difference
from analysis.fitting.fit import Fit
from analysis.output.plain import finite
from analysis.theory.carried import Theory


def to_dict(fits: list[Fit], found: Theory | None = None, pairs: Sequence[Difference] = ()) -> dict[str, Any]:
    """What `--json` prints: every number finite or null."""
    rows = []
    for one in fits:
        label = one.curve.label
        fitted, interval = found.fitted_estimate(label) if found else (None, (None, None))
        again = one.bootstrap
        rows.append(
            {
                **_numbers(one),
                "estimated_b_star": found.estimate(label) if found else None,
                "estimated_from_fitted": fitted,
                "estimated_from_fitted_ci": list(interval),
                "ratio": found.ratio if found else None,
                "costs": one.costs.to_dict() if one.costs else None,
                "verdict": sentence(one),
                "forms": one.forms.to_dict(),
                "bootstrap": None
                if again is None
                else {
                    "kind": again.kind,
                    **{f"{name}_ci": list(again.intervals[name]) for name in ("b_star", "n_inf", "sfo")},
                    "probability": {f"{b:g}": p for b, p in zip(again.sizes, again.measured.tolist(), strict=True)},
                },
            }
        )
    apart = [{**vars(d), "interval": list(d.interval), "decided": d.decided} for d in pairs]
    cleaned = finite({"curves": rows, "differences": apart})
    assert isinstance(cleaned, dict)
    return cleaned


def _numbers(one: Fit) -> dict[str, Any]:
    """What was run, estimates, intervals as pairs, and notes."""
    fitted = one.hyperbola
    return {
        "label": one.curve.label,
        "optimizer": one.curve.optimizer,
        "threshold": one.curve.threshold,
        "target": one.curve.target,
        "runs": len(one.curve.frame),
        "n_inf": one.n_inf,
        "b0": fitted.b0,
        "b_star": one.b_star,
        "sigma": fitted.sigma,
        "kappa": fitted.kappa,
        "sfo": one.sfo,
        "measured_b_star": one.measured_b_star,
        "censored": one.censored,
        "diverged": one.diverged,
        "b_star_ci": list(one.b_star_ci),
        "n_inf_ci": list(one.n_inf_ci),
        "sfo_ci": list(one.sfo_ci),
        "log_likelihood": fitted.log_likelihood,
        "notes": notes(one),
    }
