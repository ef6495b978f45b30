"""Phrases that headlines, notes, tables and figures share, so that all of them say the same of b*."""

from __future__ import annotations

import math

from analysis.fitting.cheapest import Cheapest
from analysis.fitting.fit import Fit
from analysis.fitting.forms import Form
from analysis.fitting.goodness import Goodness
from analysis.fitting.profile import Interval
from analysis.output.tables import with_interval

PAPER = "the paper's form"


def size(b: float) -> str:
    """A batch size as people write it: two figures below ten, whole numbers from there on."""
    return f"{b:.2g}" if b < 9.95 else f"{b:,.0f}"


def percent(value: float) -> str:
    return f"{100 * value:.2g} %" if value < 0.0995 else f"{100 * value:.0f} %"


def least_at(found: Cheapest, what: str = "b*") -> str:
    """What is known of the size of least cost, as in "b* = 5.2 (95 %: 3.4 to 8)"; never a number without its set."""
    first, last = found.sizes[0], found.sizes[-1]
    if found.open_low and found.open_high:
        told = f"only b = {first:g} was tried" if first == last else f"between {first:g} and {last:g}"
        return f"{what} can't be told{':' if first == last else ''} {told}"
    if found.open_low or found.open_high:
        edge, other = (first, found.high) if found.open_low else (last, found.low)
        kind, beyond = ("smallest", "smaller") if found.open_low else ("largest", "larger")
        least = found.open_low and edge <= 1
        if found.low == found.high:
            return f"{what} = {edge:g}, the {kind} size {'there is' if least else 'tried'} (95 %)"
        known = f"{what} {'≤' if found.open_low else '≥'} {size(other)} (95 %)"
        return f"{known}, 1 being the smallest size" if least else f"{known}: nothing {beyond} than {edge:g} was tried"
    return f"{what} = {size(found.b_star)} (95 %: {within(found)})"


def within(found: Cheapest) -> str:
    """The closed 95 % set, as in "3.4 to 8"."""
    ends = size(found.low), size(found.high)
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def in_table(found: Cheapest) -> str:
    """The same in a table's cell."""
    if found.open_low and found.open_high:
        return "can't be told"
    if found.open_low or found.open_high:
        if found.low == found.high:
            return f"{size(found.low)}, {'smallest' if found.open_low else 'largest'} tried"
        return f"≤ {size(found.high)}" if found.open_low else f"≥ {size(found.low)}"
    ends = dict.fromkeys((size(found.low), size(found.high)))
    return f"{size(found.b_star)} ({'–'.join(ends)})"


def as_good(found: Cheapest) -> str:
    """Which sizes are as good as the best, all at once; where none surely is, what choosing the estimate may cost."""
    near = f"within {percent(found.margin)} of the least"
    if found.as_good is None:
        return f"no size is surely {near}; choosing b = {size(found.b_star)} costs {at_most(found)}"
    low, high = (size(b) for b in found.as_good)
    return f"b = {low} costs {near}" if low == high else f"any b from {low} to {high} costs {near}"


def at_most(found: Cheapest) -> str:
    """The 95 % bound of what choosing the estimate may cost."""
    regret = found.regret_95
    if regret < 1:
        return f"at most {percent(regret)} more than the least (95 %)"
    return f"at most {1 + regret:.2g} times the least (95 %)"


def holds(test: Goodness, what: str = PAPER) -> str:
    """Whether a form holds, as in "the paper's form is rejected (p = 0.005)"."""
    if test.p is None:
        return f"whether {what} holds can't be told ({test.why})"
    return f"{what} {'is rejected' if test.rejected else 'holds'} ({p_value(test)})"


def p_value(test: Goodness) -> str:
    return "p not known" if test.p is None else f"p = {test.p:.2g}"


def mark(test: Goodness | None) -> str:
    """What follows every number of a form that is rejected; "" for other forms."""
    return f" (rejected, {p_value(test)})" if test is not None and test.rejected else ""


def own(value: float | None, interval: Interval, test: Goodness | None) -> str:
    """A form's own number with its interval, marked where the form is rejected."""
    return with_interval(value, interval) + (", rejected" if test is not None and test.rejected else "")


def disagreeing(fit: Fit) -> dict[str, Fit]:
    """The other definitions of arriving by which the 95 % set of b* doesn't meet the usual one."""
    one = fit.cheapest
    if one is None:
        return {}
    found = {}
    for name, other in fit.variants.items():
        there = other.cheapest
        if there is not None and (_above(one, there) or _above(there, one)):
            found[name] = other
    return found


def _above(one: Cheapest, other: Cheapest) -> bool:
    """Whether one set lies wholly above another; an open end reaches as far as it may."""
    return not one.open_low and not other.open_high and one.low > other.high


def verdict(fit: Fit) -> str:
    """Which forms the data prefer and where N·b is least in each, in one sentence; a rejected one is called so."""
    forms = fit.forms
    best = forms.preferred
    if best is None:
        return "Too few runs to compare forms."
    close = forms.close()
    if len(close) > 1:
        told = "; ".join(f"{_called(form, fit)}: {_implied(form)}" for form in close)
        return f"Forms: this sweep can't tell these apart (AICc within 2): {told}."
    formulae = [form for form in forms.ranked if form is not best and math.isfinite(form.aicc)]
    lead = f" by {formulae[0].aicc - best.aicc:.0f} in AICc over {_called(formulae[0], fit)}" if formulae else ""
    return f"Forms: the data prefer {_called(best, fit)}{lead}; {_implied(best)}."


def _called(form: Form, fit: Fit) -> str:
    names = {"hyperbola": PAPER, "two_term": "S_min (1 + B_crit/b)", "power_law": "the power law"}
    return names.get(form.name, "a monotone curve that follows no formula here") + mark(fit.tests.get(form.name))


def _implied(form: Form) -> str:
    if form.name == "two_term":
        return f"N·b has no minimum inside, B_crit = {form.values['B_crit']:.3g}"
    if form.b_star is None:
        return f"N·b has no minimum inside{_power(form)}"
    return f"least N·b at b = {form.b_star:.3g}{_power(form)}"


def _power(form: Form) -> str:
    """The power law's exponent: a minimum exists where it is above 1."""
    if form.name != "power_law":
        return ""
    low, high = (f"{end:.2g}" if end is not None else "open" for end in form.intervals["p"])
    return f" (p = {form.values['p']:.2g}, 95 % {low}–{high})"
