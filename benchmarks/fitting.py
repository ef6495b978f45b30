"""How fast curves are fitted, against scipy's simplex on the same likelihood, one refit after the other."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_ndtr

from analysis.fitting.bootstrap import bootstrap
from analysis.fitting.fit import fit_all
from analysis.fitting.forms import fit_forms
from analysis.fitting.hyperbola import fit_hyperbola
from analysis.fitting.likelihood import Observations
from analysis.fitting.models import Array, hyperbola
from benchmarks.coverage import Scenario, simulate
from benchmarks.timing import seconds

TEN_POINTS = Scenario(3.2, 0.2, 5)


def simplex(seen: Observations, weights: Array) -> Array:
    """ln N∞, b0 and ln σ as a script would find them: scipy's Nelder–Mead from one start."""

    def loss(theta: Array) -> float:
        with np.errstate(all="ignore"):
            eta = np.log(hyperbola(seen.b, np.exp(theta[0]), theta[1]))
            high, low = (seen.high - eta) / np.exp(theta[2]), (seen.low - eta) / np.exp(theta[2])
            inside = np.where(seen.reached, np.log(np.exp(log_ndtr(high)) - np.exp(log_ndtr(low))), log_ndtr(-low))
        value = float((weights * np.where(np.isnan(inside), -1e3, np.maximum(inside, -1e3))).sum())
        return -value

    return minimize(loss, np.array([7.0, 1.5, -1.0]), method="Nelder-Mead", options={"maxiter": 2000}).x


def report() -> None:
    """Print Markdown."""
    rng = np.random.default_rng(0)
    curve = simulate(TEN_POINTS, rng)
    seen = Observations.of(curve.frame)
    ones = np.ones(len(seen.b))
    fit_hyperbola(curve)
    one = seconds(lambda: fit_hyperbola(curve), 10)
    plain = seconds(lambda: simplex(seen, ones), 10)
    found = fit_hyperbola(curve)
    resamples = seconds(lambda: bootstrap(found, 2000))
    weights = [rng.multinomial(5, np.full(5, 0.2), size=10).reshape(-1).astype(float) for _ in range(50)]
    loop = seconds(lambda: [simplex(seen, w) for w in weights]) * 40
    curves = [simulate(TEN_POINTS, rng) for _ in range(1000)]
    fit_all(curves[:64])  # processes start once
    many = seconds(lambda: fit_all(curves))
    print("| ten batch sizes, five seeds | ours | scipy's simplex, no intervals | ratio |")
    print("|---|---|---|---|")
    print(f"| one fit, ours with three intervals | {one * 1e3:.0f} ms | {plain * 1e3:.0f} ms | {plain / one:.2f}× |")
    print(f"| 2,000 bootstrap refits | {resamples:.2f} s | {loop:.0f} s (of 50) | {loop / resamples:.0f}× |")
    print(f"| 1,000 curves, ours with intervals | {many:.0f} s | {plain * 1000:.0f} s | {plain * 1000 / many:.2f}× |")
    forms = seconds(lambda: fit_forms(curve), 5)
    print(f"\nFour forms compared, with batch sizes left out: {forms * 1e3:.0f} ms a curve.")


if __name__ == "__main__":
    report()
