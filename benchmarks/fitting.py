"""How long a headline takes, against scipy's simplex on the paper's form alone. Prints Markdown."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_ndtr

from analysis.fitting.cheapest import cheapest
from analysis.fitting.fit import fit_all
from analysis.fitting.forms import fit_forms
from analysis.fitting.goodness import goodness
from analysis.fitting.hyperbola import fit_hyperbola
from analysis.fitting.likelihood import Observations
from analysis.fitting.models import HYPERBOLA, Array, hyperbola
from analysis.fitting.posterior import posterior, runs_of
from benchmarks.simulated import Row, drawn
from benchmarks.timing import seconds

TEN_POINTS = Row("hyperbola", seeds=5, sigma=0.2)
CURVES = 1000


def simplex(seen: Observations) -> Array:
    """ln N∞, b0 and ln σ as a script would find them: scipy's Nelder–Mead from one start."""

    def loss(theta: Array) -> float:
        with np.errstate(all="ignore"):
            eta = np.log(hyperbola(seen.b, np.exp(theta[0]), theta[1]))
            high, low = (seen.high - eta) / np.exp(theta[2]), (seen.low - eta) / np.exp(theta[2])
            inside = np.where(seen.reached, np.log(np.exp(log_ndtr(high)) - np.exp(log_ndtr(low))), log_ndtr(-low))
        return -float(np.where(np.isnan(inside), -1e3, np.maximum(inside, -1e3)).sum())

    return minimize(loss, np.array([7.0, 1.5, -1.0]), method="Nelder-Mead", options={"maxiter": 2000}).x


def report() -> None:
    """Print Markdown."""
    curves = [drawn(TEN_POINTS, number).sweep() for number in range(CURVES)]
    curve = curves[0]
    seen = Observations.of(curve.frame)
    known = posterior(runs_of(curve.frame))
    assert known is not None
    fit_hyperbola(curve)
    parts = {
        "the posterior": seconds(lambda: posterior(runs_of(curve.frame)), 10),
        "what is cheapest": seconds(lambda: cheapest(known), 10),
        "the paper's form with three intervals": seconds(lambda: fit_hyperbola(curve), 10),
        "its test of fit": seconds(lambda: goodness(seen, HYPERBOLA), 10),
    }
    headline, plain = sum(parts.values()), seconds(lambda: simplex(seen), 10)
    print("| ten batch sizes, five seeds | ms | in units of scipy's simplex, no intervals |")
    print("|---|---|---|")
    for name, took in (*parts.items(), ("**a headline**", headline), ("scipy's simplex, the paper's form only", plain)):
        print(f"| {name} | {took * 1e3:.0f} | {took / plain:.2f}× |")
    fit_all(curves[:64])  # processes start once
    many = seconds(lambda: fit_all(curves))
    print(f"\n{CURVES:,} headlines on all cores: {many:.0f} s.", end=" ")
    forms = seconds(lambda: fit_forms(curve), 5)
    print(f"Four forms compared, with batch sizes left out: {forms * 1e3:.0f} ms a curve.")


if __name__ == "__main__":
    report()
