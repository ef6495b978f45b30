"""A comparison in words: which arm takes less of what, by how much, how surely, and what isn't decided."""

from __future__ import annotations

import math

import numpy as np

from analysis.compare.arms import AXES
from analysis.compare.arrivals import Arrivals
from analysis.compare.contrast import LEVEL, Contrast, inverse
from analysis.compare.questions import FEW, Findings, Question, upright
from analysis.output.tables import short
from cbs.errors import counted

# Against so many others the verdict is told one by one.
_ONE_BY_ONE = 5
# What is spent on an axis, and how fewer of it reads.
_OF = {"steps": "steps", "sfo": "gradients", "seconds": "seconds"}


def sentences(found: Findings) -> list[str]:
    """The verdict: one per axis at the main threshold, then the metric after as much, then where axes disagree."""
    told = []
    for axis in found.field.axes:
        question = found.question(axis, found.main)
        if question is not None and found.main is not None:
            told.append(_cheapest(found, question, found.taken[found.main]))
    told += [sentence for axis in found.field.axes if (sentence := _after(found, axis))]
    return [*told, *disagreements(found)]


def _cheapest(found: Findings, question: Question, arms: list[Arrivals]) -> str:
    """Who takes least on one axis, and against whom that is sure."""
    axis = question.axis
    best = min(arms, key=lambda a: (a.median(axis), -a.reached))
    ends, confidence = best.interval(axis)
    median = f"{_amount(best.median(axis), axis)} ({_range(ends)}, {percent(confidence)})"
    head = f"{AXES[axis]} to {found.field.at} {found.main:g}: {best.arm.label} has the least median, {median}"
    return f"{_capital(head)}. {' '.join(_against(question, best.arm.label, [a.arm.label for a in arms]))}"


def _against(question: Question, best: str, labels: list[str]) -> list[str]:
    """The other arms against the best: those that are surely worse, and those that aren't told from it."""
    rivals = {label: _toward(question, label, best) for label in labels if label != best}
    sure = {label: c for label, c in rivals.items() if c.sign > 0}
    open_ = {label: c for label, c in rivals.items() if c.sign <= 0}
    if len(rivals) > _ONE_BY_ONE:
        names = ", ".join(sorted(open_, key=labels.index)) or "none"
        return [f"{len(sure)} of the {counted(len(rivals), 'other')} certainly take more; not told from it: {names}."]
    told = [f"{label} takes {_times(c)}{_surely(c)}." for label, c in sure.items()]
    return told + [f"Undecided: {label}, {_times(c)}; {_wanted(c)}." for label, c in open_.items()]


def _toward(question: Question, one: str, other: str) -> Contrast:
    """`one` over `other`, whichever way round they were compared."""
    found = question.pair(one, other)
    if found is not None:
        return found
    turned = question.pair(other, one)
    assert turned is not None
    return inverse(turned)


def _times(found: Contrast) -> str:
    """A ratio with its interval; a bound where an end is open."""
    low, high = found.ratio_ci
    if found.ratio is None:
        if low is not None or high is not None:
            return f"{_bound(low, high)} times as much"
        return "no ratio is known"
    if low is None and high is None:
        return f"{short(found.ratio)} times as much, with no interval"
    return f"{short(found.ratio)} times as much (95 % {_range((low, high))})"


def _bound(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{short(low)} to {short(high)}"
    return f"at least {short(low)}" if low is not None else f"at most {short(high or 0.0)}"


def _range(ends: tuple[float | None, float | None]) -> str:
    low, high = ends
    left = "no lower end" if low is None else short(low)
    return f"{left}–{short(high)}" if high is not None else f"{left} upwards, unbounded"


def _surely(found: Contrast) -> str:
    return "" if found.p_holm is None else f", {_p(found.p_holm)}"


def _wanted(found: Contrast) -> str:
    """How many seeds would decide, and why an interval beside 1 hasn't."""
    if found.p is not None and found.p <= LEVEL < (found.p_holm or 0.0):
        return f"{_p(found.p_holm or 0.0)} among the other pairs, {_seeds(found)}"
    if found.p_holm is not None and found.p_holm <= LEVEL:
        return f"too few seeds agree for the exact test ({_p(found.p_exact or 0.0)}), {_seeds(found)}"
    return _seeds(found)


def _seeds(found: Contrast) -> str:
    if found.needed is None:
        return "two seeds at least are needed to test"
    if not math.isfinite(found.needed):
        return "not even 1,000 seeds would decide it"
    seeds = counted(max(int(found.needed), found.seeds + 1), "seed")
    return f"about {seeds} would decide it"


def _after(found: Findings, axis: str) -> str | None:
    """The metric after as much was spent: told where there are two arms, and where there are few of the best."""
    question, field = found.question(axis, None), found.field
    if question is None or not question.pairs:
        return None
    if len(field.arms) > 2:
        return _after_many(found, question)
    pair = question.pairs[0]
    if math.isnan(question.at[pair.one, pair.other]):
        return None
    at = f"{field.title} after {_amount(question.at[pair.one, pair.other], axis)} {_OF[axis]}"
    ratio = upright(field, question, pair.found)
    verdict = f"{pair.one} has {_times(ratio)} of {pair.other}'s".replace("times as much", "times", 1)
    if pair.found.sign == 0:
        return f"{_capital(at)}: undecided, {verdict}; {_wanted(pair.found)}."
    return f"{_capital(at)}: {verdict}{_surely(pair.found)}; {'less' if field.sign > 0 else 'more'} is better."


def _after_many(found: Findings, question: Question) -> str:
    """How many pairs differ; the table has them."""
    decided = [p for p in question.pairs if p.found.sign]
    head = f"{found.field.title} after equally many {_OF[question.axis]}"
    if not decided:
        return f"{head}: no two of the {len(found.field.arms)} arms are told apart."
    wins = {arm.label: 0 for arm in found.field.arms}
    for p in decided:
        wins[p.one if p.found.sign < 0 else p.other] += 1
    best = max(wins, key=lambda label: wins[label])
    others = len(found.field.arms) - 1
    told = f"{len(decided)} of {len(question.pairs)} pairs are told apart"
    return f"{head}: {told}; {best} is better than {wins[best]} of {others}."


def disagreements(found: Findings) -> list[str]:
    """Pairs for which one axis says more and another less, and thresholds that turn an order round."""
    told = []
    signs: dict[tuple[str, str], dict[str, int]] = {}
    for axis in found.field.axes:
        question = found.question(axis, found.main)
        for p in question.pairs if question else []:
            signs.setdefault((p.one, p.other), {})[axis] = p.found.sign
    for (one, other), by_axis in signs.items():
        fewer = [_OF[axis] for axis, sign in by_axis.items() if sign < 0]
        more = [_OF[axis] for axis, sign in by_axis.items() if sign > 0]
        if fewer and more:
            less, dearer = " and ".join(fewer), " and ".join(more)
            told.append(f"The axes disagree: {one} takes fewer {less} than {other}, but more {dearer}.")
    return told + _turned(found)


def _turned(found: Findings) -> list[str]:
    at = found.field.at
    orders: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for q in found.questions:
        for p in q.pairs if q.threshold is not None else []:
            if p.found.sign:
                assert q.threshold is not None
                orders.setdefault((q.axis, p.one, p.other), {}).setdefault(p.found.sign, []).append(q.threshold)
    return [
        f"The threshold matters: {one} takes fewer {_OF[axis]} than {other} to {at} {_listed(by_sign[-1])}, "
        f"more to {at} {_listed(by_sign[1])}."
        for (axis, one, other), by_sign in orders.items()
        if len(by_sign) == 2
    ]


def _listed(values: list[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)


def notes(found: Findings) -> list[str]:
    """What must be said beside the verdict."""
    field, told = found.field, []
    pairs = [p for q in found.questions for p in q.pairs]
    if found.main is None:
        told.append(f"No arm's median run came to any of the thresholds looked at ({_listed(list(found.taken))}).")
    seeds = [len(arm.courses) for arm in field.arms]
    least = [p.found.p_least for p in pairs if p.found.p_least is not None]
    weak = [p for p in least if p > LEVEL]
    if weak:
        told.append(
            f"Of {_span(seeds)} seeds an exact test can't decide {counted(len(weak), 'comparison')} of {len(least)}, "
            f"whatever they show (least p up to {p_value(max(weak))}): called decided are those in which every seed "
            "agrees and Student's t on logarithms decides."
        )
    if any(p.shared is not None for p in pairs):
        steps = sorted({p.shared for p in pairs if p.shared is not None})
        told.append(f"Arms with a shared beginning are the same runs up to step {_listed([float(s) for s in steps])}.")
    if any(not p.found.decided for p in pairs):
        told.append(
            "Seeds that would decide: were difference and spread what they look like, which few seeds tell roughly."
        )
    if found.unconfirmed:
        told.append(
            f"{counted(found.unconfirmed, 'crossing')} at thresholds that the runs were not asked for are the first "
            "evaluation beyond, without the fresh-noise repeats of a trained one."
        )
    if not field.own and any(course.met for arm in field.arms for course in arm.courses):
        told.append(
            f"Runs were stopped by another metric than {field.title}: an arm that arrived there early was watched less."
        )
    broke = [(arm.label, sum(c.broke for c in arm.courses)) for arm in field.arms]
    told += [f"{label}: {counted(n, 'run')} diverged, and arrived nowhere beyond." for label, n in broke if n]
    if "seconds" not in field.axes:
        why = (
            "no run says what its steps took" if field.alike else f"runs were trained on {' and '.join(field.devices)}"
        )
        told.append(f"Seconds are not compared: {why}.")
    if "seconds" in field.axes and any(course.run.result.stack for arm in field.arms for course in arm.courses):
        told.append(
            "Seconds of seeds that trained as one network are their steps at the pace of a step alone, measured once "
            "before: intervals don't hold that measurement's error."
        )
    if field.left_out:
        told.append(f"{counted(field.left_out, 'run')} left out: trained again from the start, or not evaluated yet.")
    if len(field.arms) > FEW:
        count = len(field.arms) * (len(field.arms) - 1) // 2
        told.append(f"{len(field.arms)} arms make {count} pairs, for which p is corrected: name fewer by --arms.")
    return told


def _span(numbers: list[int]) -> str:
    return str(min(numbers)) if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


def _p(p: float) -> str:
    told = p_value(p)
    return f"p {told}" if told.startswith("<") else f"p = {told}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _amount(value: float, axis: str) -> str:
    return f"{short(value)} s" if axis == "seconds" else short(value)


def percent(share: float) -> str:
    return f"{np.floor(1000 * share) / 10:g} %"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
