"""The answer in words: a sentence per curve, the short text, a fit on its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.answer.notes import notes, verdict
from analysis.answer.summary import costs, curves, forms, theories
from analysis.fitting.costs import POOR
from analysis.fitting.difference import Difference
from analysis.fitting.fit import Fit
from analysis.output.tables import short, with_interval
from analysis.theory.carried import Theory
from cbs.errors import counted


def sentence(one: Fit) -> str:
    """The verdict on one curve: b*, its interval, the measured one, and how many trials never arrived."""
    b_star = with_interval(one.b_star, one.b_star_ci)
    if one.b_star is not None and None not in one.b_star_ci:
        low, high = one.b_star_ci
        assert low is not None
        assert high is not None
        fitted = f"b* = {short(one.b_star)} (95 % {short(low)}–{short(high)})"
    else:
        fitted = "no fitted b*" if b_star == "–" else f"b* {b_star} (95 %)"
    measured = "nothing measured" if one.measured_b_star is None else f"measured {one.measured_b_star:g}"
    abandoned = f" ({one.curve.abandoned} of them abandoned)" if one.curve.abandoned else ""
    missed = f"{one.censored} of {len(one.curve.frame)} runs censored{abandoned}"
    diverged = f", {one.diverged} diverged" if one.diverged else ""
    best = one.forms.preferred
    doubt = ""
    if best is not None and one.forms.behind("hyperbola") >= 10 and one.b_star is not None:
        told = verdict(one.forms)
        doubt = f"; but {told[0].lower()}{told[1:].rstrip('.')}"
    return f"{one.curve.name}: {fitted}, {measured}; {missed}{diverged}{doubt}."


def text(fits: list[Fit], found: Theory | None = None, pairs: Sequence[Difference] = ()) -> str:
    """The short answer: the curves, the theory, and what must be said beside them."""
    lines = [curves(fits).text(), ""]
    if found:
        lines += [theories(fits, found).text(), "", explained(found), ""]
    told = [sentence for one in fits for sentence in prices(one)]
    if told:
        lines += [costs(fits).text(), "", *told, ""]
    lines += [apart(pair) for pair in pairs]
    lines += [f"{one.curve.name}: {note}" for one in fits for note in notes(one)]
    return "\n".join(lines)


def prices(one: Fit) -> list[str]:
    """What the cheapest batch size of each cost saves against b*, and what else must be known of a curve's costs."""
    if one.costs is None:
        return []
    found = []
    for name, cost in one.costs.known.items():
        title = {"time": one.costs.title_of_time, "hours": one.costs.unit_of_hours}.get(name, name)
        if cost.b_star is not None and one.b_star is not None:
            b = np.array([one.b_star, cost.b_star])
            steps = one.predict(b)
            dearer, gradients = cost.at(b, steps), b * steps
            found.append(
                f"{one.curve.name}, least {title}: b = {with_interval(cost.b_star, cost.b_star_ci)}, which takes "
                f"{dearer[1] / dearer[0]:.0%} of what b* = {short(one.b_star)} does, "
                f"for {gradients[1] / gradients[0]:.2g} times the gradients."
            )
        best, sizes = one.forms.preferred, one.curve.batch_sizes
        if best is not None and best.name != "hyperbola":
            other = cost.under(best, sizes[0], sizes[-1])
            told = "none inside the sweep" if other is None else f"b = {short(other)}"
            found.append(f"{one.curve.name}, least {title} under the preferred form {best.title}: {told}.")
        if cost.misfit > POOR:
            found.append(
                f"{one.curve.name}: what a step took is up to {cost.misfit:.0%} off the line a + b·c; "
                f"read the measured b = {cost.measured_b_star} instead of the fitted."
            )
    if one.costs.others:
        device, others = one.costs.device or "no device", counted(one.costs.others, "run")
        found.append(f"{one.curve.name}: costs are those on {device}; {others} elsewhere are left out of them.")
    return [sentence.replace("%", " %") for sentence in found]


def apart(found: Difference) -> str:
    """The ratio of two curves' b*, its interval, and whether the two differ."""
    ends = ("open" if end is None else f"{2**end:.3g}" for end in found.interval)
    verdict = "they differ" if found.decided else "undecided"
    ratio = f"{2**found.octaves:.3g} (95 % {'–'.join(ends)})"
    return f"b* of {found.one} / {found.other} in the paper's form = {ratio}: {verdict}"


def explained(found: Theory) -> str:
    """Where the estimates come from."""
    fitted = (
        f", {with_interval(found.fitted_ratio, found.fitted_ratio_ci)} from its fitted one"
        if found.fitted_ratio
        else ""
    )
    return (
        f"Estimated: closed forms of Sato & Iiduka (2023) with r = σ²/ε³ = {short(found.ratio)} "
        f"from {found.source}'s measured b*{fitted}. A carried value is an estimate, not a bound."
    )


def describe(one: Fit) -> str:
    """One fit in full: print(describe(fit(curve)))."""
    parts = [sentence(one), "", curves([one]).text(), "", forms([one]).text()]
    parts += ["", *(f"- {note}" for note in notes(one))]
    return "\n".join(parts)
