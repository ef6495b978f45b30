"""The answer as numbers: what --json prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.answer.notes import notes
from analysis.answer.sentences import sentence
from analysis.answer.summary import probability
from analysis.fitting.difference import Difference
from analysis.fitting.fit import Fit
from analysis.output.plain import finite
from analysis.theory.carried import Theory


def to_dict(fits: list[Fit], found: Theory | None = None, pairs: Sequence[Difference] = ()) -> dict[str, Any]:
    """What `--json` prints: every number finite or null."""
    rows = []
    for one in fits:
        label = one.curve.label
        carried, interval = found.from_b_star(label) if found else (None, (None, None))
        rows.append(
            {
                **_numbers(one),
                "hyperbola": _paper(one),
                "forms": [{**form, **_test(one, form["name"])} for form in one.forms.to_dict()],
                "costs": one.costs.to_dict() if one.costs else None,
                "variants": {
                    name: {"b_star": other.b_star, "b_star_ci": list(other.b_star_ci)}
                    for name, other in one.variants.items()
                },
                "estimated_b_star": found.from_measured(label) if found else None,
                "estimated_from_b_star": carried,
                "estimated_from_b_star_ci": list(interval),
                "ratio": found.measured_ratio if found else None,
                "ratio_from_b_star": found.ratio if found else None,
                "ratio_from_b_star_ci": list(found.ratio_ci) if found else [None, None],
                "verdict": sentence(one),
                "notes": notes(one),
            }
        )
    apart = [{**vars(d), "interval": list(d.interval), "decided": d.decided} for d in pairs]
    cleaned = finite({"curves": rows, "differences": apart})
    assert isinstance(cleaned, dict)
    return cleaned


def _numbers(one: Fit) -> dict[str, Any]:
    """What was run, and b* with all that is known of it."""
    known = one.cheapest
    return {
        "label": one.curve.label,
        "optimizer": one.curve.optimizer,
        "about": one.curve.about,
        "threshold": one.curve.threshold,
        "target": one.curve.target,
        "runs": len(one.curve.frame),
        "censored": one.censored,
        "abandoned": one.curve.abandoned,
        "diverged": one.diverged,
        "b_star": one.b_star,
        "b_star_ci": list(one.b_star_ci),
        "probability": {f"{b:g}": p for b, p in probability(one).items()},
        "margin": one.margin,
        "as_good": list(known.as_good) if known and known.as_good else None,
        "regret_95": known.regret_95 if known else None,
        "sfo": one.sfo,
        "sfo_ci": list(one.sfo_ci),
        "measured_b_star": one.measured_b_star,
        "measured_candidates": list(one.measured.candidates),
    }


def _paper(one: Fit) -> dict[str, Any]:
    """What the paper's form says, and whether it holds."""
    form = one.hyperbola
    return {
        "n_inf": form.n_inf,
        "n_inf_ci": list(form.n_inf_ci),
        "b0": form.b0,
        "b_star": form.b_star,
        "b_star_ci": list(form.b_star_ci),
        "sfo": form.sfo,
        "sfo_ci": list(form.sfo_ci),
        "sigma": form.sigma,
        "kappa": form.kappa,
        "log_likelihood": form.log_likelihood,
        **_test(one, "hyperbola"),
    }


def _test(one: Fit, name: str) -> dict[str, Any]:
    """The test of one form: p_value is null where it can't be told, and `untested` says why."""
    test = one.goodness if name == "hyperbola" else one.tests.get(name)
    if test is None:
        return {"p_value": None, "rejected": False, "untested": "no formula"}
    return {"p_value": test.p, "rejected": test.rejected, "untested": test.why or None}
