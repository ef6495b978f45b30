"""What must be said beside a fit: what can't be told, what the form alone decides, what to sweep next."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.fitting.fit import Fit
from analysis.fitting.forms import Form, Forms


def notes(fit: Fit) -> list[str]:
    """Sentences, the most important first."""
    found = [*flags(fit), *_forms(fit), *_data(fit)]
    following = next_batch_sizes(fit)
    if following:
        found.append(f"Sweep next: batch_size={','.join(map(str, following))}{_until(fit, following)}.")
    return found


def flags(fit: Fit) -> list[str]:
    """What rests on the sweep's edges or on too few trials."""
    return [*_missing(fit), *_fitted(fit), *_edges(fit)]


def _until(fit: Fit, following: list[int]) -> str:
    return ", until a trial is censored" if following[0] < fit.curve.batch_sizes[0] else ""


def _reached_sizes(fit: Fit) -> list[int]:
    frame = fit.curve.frame
    return sorted(frame.loc[frame["outcome"] == "reached", "batch_size"].unique().tolist())


def pinned(fit: Fit) -> bool:
    """Whether every run that didn't diverge reached its target, so that the form's ceiling is b* < 2 b_min."""
    return bool(_reached_sizes(fit)) and fit.censored == 0


def _missing(fit: Fit) -> list[str]:
    """Why there is no fit, or only half of one."""
    sizes = _reached_sizes(fit)
    found = []
    if fit.diverged:
        counts = fit.curve.shares()
        where = ", ".join(
            f"{d} of {n} at b = {b}"
            for b, d, n in zip(counts.index, counts["diverged"], counts["runs"], strict=True)
            if d
        )
        found.append(f"Diverged and left out of the fit: {where}; the measured b* counts them as misses.")
    if fit.diverged == len(fit.curve.frame):
        found.append("Every run diverged: there is nothing to fit.")
    elif not sizes:
        most = fit.curve.frame["steps"].max()
        found.append(
            f"No run reached its target within {most:,.0f} steps: raise the budget or the threshold, "
            "or sweep larger batch sizes."
        )
    elif len(sizes) < 3:
        high = fit.b_star_ci[1]
        least = f"b* ≤ {high:.3g} (95 %)" if high is not None else f"b* < {2 * sizes[0]:g}"
        known = f"b0 is below the smallest of them, so {least}"
        if fit.b_star_ci[0] is not None:
            known += f" and b* ≥ {fit.b_star_ci[0]:.3g} (95 %)"
        found.append(
            f"The target was reached at {len(sizes)} batch size{'s' * (len(sizes) > 1)} only: "
            f"a fit needs three; {known} in this form."
        )
    elif fit.hyperbola.problem is None:
        found.append(
            f"Too few runs whose N has two ends: neither a fit nor an interval; in this form b* < {2 * sizes[0]:g}."
        )
    elif fit.hyperbola.sigma is not None and fit.hyperbola.sigma < 0.002:
        found.append(
            "The spread between runs can't be told from 0: every bracket holds the curve, "
            "and b* is one of the values they allow."
        )
    return found


def _fitted(fit: Fit) -> list[str]:
    """Where a parameter lies at its bound, and where the form alone holds b*."""
    found: list[str] = []
    sizes = _reached_sizes(fit)
    if len(sizes) < 3 or fit.hyperbola.problem is None:
        return found
    low, high = fit.b_star_ci
    if fit.hyperbola.rising:
        found.append("N(b) rises with b beyond its spread: the theory's form doesn't hold for these trials.")
    elif low is None and high is not None:
        found.append(f"b0 can't be told from 0: only b* ≤ {high:.3g} is known.")
    elif high is None:
        known = f"b* ≥ {low:.3g} and, " if low is not None else ""
        found.append(
            f"b0 may lie anywhere up to {sizes[0]:g}: {known}in this form, b* < {2 * sizes[0]:g} is all that is known."
        )
    if pinned(fit):
        found.append(
            f"Every run reached its target, so this form can only answer b* < {2 * sizes[0]:g} "
            "(twice the smallest batch size): the evidence for b0 is trials that never arrive."
        )
    elif high is not None and high > 1.8 * sizes[0]:
        here = fit.curve.shares().loc[sizes[0]]
        found.append(
            f"{here['reached']} of {here['runs']} runs reached the target at b = {sizes[0]:g}, "
            f"which holds b* below {2 * sizes[0]:g} in this form."
        )
    return found


def _edges(fit: Fit) -> list[str]:
    """A measured b* at an edge of the sweep, or far from the fitted one."""
    found: list[str] = []
    sizes, measured = fit.curve.batch_sizes, fit.measured_b_star
    if measured is None or len(sizes) < 2:
        return found
    if measured == sizes[0] > 1:
        found.append(f"The least N·b is at the smallest batch size swept, {sizes[0]:g}: b* may lie below it.")
    if measured == sizes[-1]:
        found.append(f"The least N·b is at the largest batch size swept, {sizes[-1]:g}: b* may lie above it.")
    if fit.b_star is not None:
        low, high = (end if end is not None else fit.b_star for end in fit.b_star_ci)
        if not low / 2 <= measured <= high * 2:
            found.append(
                f"The measured b* of {measured:g} is more than an octave outside the fitted interval: "
                "the curve doesn't follow this form, or the seeds are too few for the measured one."
            )
    return found


def _forms(fit: Fit) -> list[str]:
    """What the rivals say."""
    forms = fit.forms
    best = forms.preferred
    if best is None:
        return []
    found = [verdict(forms)]
    behind = forms.behind("hyperbola")
    if fit.b_star is not None and behind >= 10:
        found.append(
            f"Don't read b* = {fit.b_star:.3g} from the hyperbola here: it is {behind:.0f} behind in AICc"
            + (
                " and held down by the smallest batch size."
                if pinned(fit) and fit.b_star > fit.curve.batch_sizes[0]
                else "."
            )
        )
    two_term = forms.form("two_term")
    if two_term is not None and forms.behind("two_term") < 10:
        b_crit, sizes = two_term.values["B_crit"], _reached_sizes(fit)
        if b_crit > sizes[-1]:
            found.append(f"B_crit = {b_crit:,.0f} lies beyond the largest batch size that reached, {sizes[-1]:g}.")
        elif b_crit < sizes[0] / 4 and not fit.hyperbola.rising:
            found.append("N(b) is flat over the sweep: B_crit lies far below it.")
    return found


def verdict(forms: Forms) -> str:
    """Which forms the data prefer, and what b* each implies, in one sentence."""
    best = forms.preferred
    if best is None:
        return "Too few runs to compare forms."
    close = forms.close()
    if len(close) > 1:
        told = "; ".join(f"{_called(form)}: {_implied(form)}" for form in close)
        return f"This sweep can't tell these forms apart (AICc within 2): {told}."
    formulae = [form for form in forms.ranked if form is not best and math.isfinite(form.aicc)]
    lead = f" by {formulae[0].aicc - best.aicc:.0f} in AICc over {_called(formulae[0])}" if formulae else ""
    return f"The data prefer {_called(best)}{lead}: {_implied(best)}."


def _called(form: Form) -> str:
    names = {"hyperbola": "the paper's hyperbola", "two_term": "S_min (1 + B_crit/b)", "power_law": "the power law"}
    return names.get(form.name, "a monotone curve that follows no formula here")


def _implied(form: Form) -> str:
    if form.name == "two_term":
        return f"N·b has no minimum inside, B_crit = {form.values['B_crit']:.3g}"
    if form.b_star is None:
        return f"N·b has no minimum inside{_power(form)}"
    if form.name == "monotone":
        return f"least N·b at b = {form.b_star:g}"
    return f"b* = {form.b_star:.3g}{_power(form)}"


def _power(form: Form) -> str:
    """The power law's exponent: a minimum exists where it is above 1."""
    if form.name != "power_law":
        return ""
    low, high = (f"{end:.2g}" if end is not None else "open" for end in form.intervals["p"])
    return f" (p = {form.values['p']:.2g}, 95 % {low}–{high})"


def _data(fit: Fit) -> list[str]:
    """Seeds, brackets and runs left out."""
    found = []
    frame = fit.curve.frame
    runs = frame.groupby("batch_size").size()
    if fit.hyperbola.problem is not None and runs.max() < 2:
        found.append(
            "One seed per batch size: the spread between seeds is inferred from the curve's shape alone, "
            "and the bootstrap is parametric."
        )
    uneven = runs[runs < runs.max()]
    if len(uneven):
        found.append(f"Fewer runs than the {runs.max()} elsewhere at b = {', '.join(f'{b:g}' for b in uneven.index)}.")
    if fit.curve.changing:
        found.append(
            f"{fit.curve.changing} runs of the study change their batch size, or branch from another run: they are "
            "points of no curve N(b), and left out."
        )
    if fit.curve.left_out:
        found.append(f"{fit.curve.left_out} runs have no outcome at this threshold and are left out.")
    if fit.curve.unconfirmed:
        found.append(
            f"{fit.curve.unconfirmed} crossings were read off the trajectories afterwards, without confirmation "
            "by fresh noise: they come early by chance more often than confirmed ones."
        )
    reached = frame[frame["outcome"] == "reached"]
    first = reached[reached["lower"] == 0]
    if len(first):
        found.append(
            f"{len(first)} of {len(frame)} runs had passed the target at their first evaluation: "
            "only an upper end of their N is known; evaluate earlier."
        )
    wild = _wild(reached)
    if len(wild):
        where = ", ".join(f"{b:g}" for b in wild)
        found.append(f"Seeds disagree more than elsewhere at b = {where}: fit with --growing-spread beside this.")
    return found


def _wild(reached: pd.DataFrame) -> list[int]:
    """Batch sizes whose seeds spread over three times as far in ln N as elsewhere, and over a tenth."""
    spread = np.log(reached["steps"].astype(float)).groupby(reached["batch_size"]).agg(["var", "count"])
    spread = spread[spread["count"] > 1]
    found = []
    for b, row in spread.iterrows():
        others = spread.drop(index=b)
        usual = np.average(others["var"], weights=others["count"] - 1) if len(others) else np.inf
        if row["var"] > max(9 * usual, 0.01):
            found.append(b)
    return found


def next_batch_sizes(fit: Fit) -> list[int]:
    """Batch sizes that would tell most about b*, beyond those swept; empty where more seeds are what is missing."""
    swept, reached = fit.curve.batch_sizes, _reached_sizes(fit)
    measured = fit.measured_b_star
    if fit.diverged == len(fit.curve.frame):
        return []
    if not reached or measured == swept[-1] or reached[0] == swept[-1]:
        return [int(swept[-1] * 2), int(swept[-1] * 4)]
    down = [int(swept[0] // k) for k in (2, 4, 8) if swept[0] / k >= 1]
    if down and (measured == swept[0] or pinned(fit)):
        return down
    if fit.b_star is None or None in fit.b_star_ci:
        return []
    low, high = fit.b_star_ci
    assert low is not None
    assert high is not None
    half = round(fit.b_star)
    unswept = half not in swept and swept[0] < half < swept[-1]
    return [half] if unswept and high / low > 2 and min(abs(math.log2(half / b)) for b in swept) > 0.3 else []
