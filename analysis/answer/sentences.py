"""The answer in words: a headline per curve, the short text, a fit on its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.answer.notes import notes
from analysis.answer.summary import arriving, costs, curves, forms, outcomes, papers, theories
from analysis.answer.wording import as_good, disagreeing, holds, least_at, percent
from analysis.fitting.costs import Cost, Costs
from analysis.fitting.difference import Difference
from analysis.fitting.fit import Fit
from analysis.output.tables import Table, short, with_interval
from analysis.theory.carried import Theory
from cbs.errors import counted


def sentence(one: Fit) -> str:
    """The headline of one curve: b* with its set, what is as good, its runs, whether the paper's form holds."""
    curve = one.curve
    about = ", ".join(part for part in (f"{curve.name} {curve.about}".strip(), curve.target) if part)
    told = [_found(one), _runs(one)]
    if one.cheapest is not None:
        told.append(holds(one.goodness))
    for name, other in disagreeing(one).items():
        assert other.cheapest is not None
        told.append(f"but by the {name}, {least_at(other.cheapest)}")
    return f"{about}: {'; '.join(told)}."


def _found(one: Fit) -> str:
    if one.cheapest is not None:
        several = len(one.cheapest.sizes) > 1
        return "; ".join([least_at(one.cheapest), *([as_good(one.cheapest)] if several else [])])
    why = "every run diverged" if one.diverged == len(one.curve.frame) else "no run reached the target"
    return f"b* is not known: {why}"


def _runs(one: Fit) -> str:
    """As in "24 runs, 3 never arrived, 1 diverged"."""
    given_up = one.curve.abandoned
    counts = {"never arrived": one.censored - given_up, "abandoned": given_up, "diverged": one.diverged}
    missed = [f"{count} {kind}" for kind, count in counts.items() if count]
    return ", ".join([counted(len(one.curve.frame), "run"), *(missed or ["all arrived"])])


def text(fits: list[Fit], found: Theory | None = None, pairs: Sequence[Difference] = ()) -> str:
    """The short answer: headlines, tables, and what must be said beside them."""
    lines = [*map(sentence, fits), "", curves(fits).text(), ""]
    for table in (arriving(fits), papers(fits)):
        lines += [table.title, table.text(), ""] if table.rows else []
    if found:
        lines += [theories(fits, found).text(), "", explained(found), ""]
    told = [price for one in fits for price in prices(one)]
    if told:
        lines += [costs(fits).text(), "", *told, ""]
    lines += [f"{apart(pair)}." for pair in pairs]
    lines += [f"{one.curve.name}: {note}" for one in fits for note in notes(one)]
    return "\n".join(lines)


def prices(one: Fit) -> list[str]:
    """Where each cost is least, what that saves against the fewest gradients, and what else must be known of costs."""
    if one.costs is None:
        return []
    found = [_price(one, one.costs, name, cost) for name, cost in one.costs.known.items() if cost.cheapest]
    if one.costs.others:
        device, others = one.costs.device or "no device", counted(one.costs.others, "run")
        found.append(f"{one.curve.name}: costs are those on {device}; {others} elsewhere are left out of them.")
    return found


def _price(one: Fit, costs: Costs, name: str, cost: Cost) -> str:
    assert cost.cheapest is not None
    assert one.cheapest is not None
    title = {"time": costs.title_of_time, "hours": costs.unit_of_hours}.get(name, name)
    b = np.array([one.cheapest.b_star, cost.cheapest.b_star])
    steps = one.predict(b)
    dearer, gradients = cost.of_a_step(b) * steps, b * steps
    return (
        f"{one.curve.name}: for the least {title}, {least_at(cost.cheapest, 'b')}; {as_good(cost.cheapest)}; by the "
        f"estimates, {percent(dearer[1] / dearer[0])} of what the fewest gradients take, for "
        f"{gradients[1] / gradients[0]:.2g} times as many."
    )


def apart(found: Difference) -> str:
    """The ratio of two curves' b*, its interval, and whether the two differ."""
    if found.interval == (None, None):
        return f"How far b* of {found.one} and of {found.other} lie apart can't be told: their sets are open"
    ends = ("open" if end is None else f"{2**end:.3g}" for end in found.interval)
    verdict = "they differ" if found.decided else "undecided"
    return (
        f"b* of {found.one} over that of {found.other}: ratio {2**found.octaves:.3g} (95 % {'–'.join(ends)}), {verdict}"
    )


def explained(found: Theory) -> str:
    """Where the estimates come from."""
    measured = "" if found.measured_ratio is None else f"{short(found.measured_ratio)} from the measured one, "
    carried = with_interval(found.ratio, found.ratio_ci)
    return (
        f"Estimated: closed forms of Sato & Iiduka (2023) with r = σ²/ε³ back from b* of {found.source}: {measured}"
        f"{carried} from b* with its set. A carried value is an estimate, not a bound."
    )


def describe(one: Fit) -> str:
    """One fit in full: print(describe(fit(curve)))."""
    shown: list[Table] = [curves([one]), outcomes([one]), arriving([one]), papers([one]), forms([one])]
    parts = [sentence(one)]
    for table in shown:
        parts += ["", table.text()] if table.rows else []
    return "\n".join([*parts, "", *(f"- {note}" for note in notes(one))])
