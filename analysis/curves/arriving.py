"""Other definitions of arriving, read off a run's evaluations: how b* depends on what counts as arriving."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from cbs.outcome import METRICS, Censored, Diverged, Evaluation, Metric, Outcome, Reached
from cbs.target import crossing

MEDIAN, SECOND = "running median of three", "every second evaluation"


def running_median(evaluations: Sequence[Evaluation], metric: Metric = METRICS["fid"]) -> list[Evaluation]:
    """Each value replaced by the median of itself and its neighbours.

    The last one's missing neighbour is its own fresh-noise repeat, else itself: a run that stopped because it
    had arrived stays there. The first one's is the worse of the two that are known.
    """
    smooth = []
    worse = min if metric.rising else max
    for i, e in enumerate(evaluations):
        near = [x.value for x in evaluations[max(i - 1, 0) : i + 2]]
        if i == len(evaluations) - 1:
            near.append(e.repeats[0] if e.repeats else e.value)
        smooth.append(Evaluation(e.step, e.samples, e.seconds, median(near) if len(near) == 3 else worse(near)))
    return smooth


def by_median(evaluations: Sequence[Evaluation], threshold: float, metric: Metric, confirmed: Outcome) -> Outcome:
    """Where the running median of three crosses; the last evaluation has none, for what follows it is not known.

    A run that stopped before its median crossed is censored at the last evaluation at which the median is known to be
    short of the threshold.
    """
    found = crossing(running_median(evaluations, metric)[:-1], threshold, 0, metric)
    if isinstance(found, Reached) or isinstance(confirmed, Diverged):
        return found if isinstance(found, Reached) else confirmed
    short = [not metric.arrived(e.value, threshold) for e in evaluations[-2:]]
    return Censored(evaluations[-1 if all(short) else -2].step if len(evaluations) > 1 else evaluations[-1].step)


def by_second(evaluations: Sequence[Evaluation], threshold: float, metric: Metric, confirmed: Outcome) -> Outcome:
    """The outcome as every second evaluation shows it: a wider bracket, not before the confirmed crossing."""
    kept = evaluations[1::2] or evaluations
    if not isinstance(confirmed, Reached):
        return confirmed if isinstance(confirmed, Diverged) else Censored(kept[-1].step)
    before = [e.step for e in kept if e.step < confirmed.first_below]
    later = [e for e in kept if e.step >= confirmed.first_below]
    found = crossing(later, threshold, 0, metric)
    if isinstance(found, Reached):
        return Reached(found.last_above or (before[-1] if before else 0), found.first_below)
    return Censored(kept[-1].step)


DEFINITIONS = {MEDIAN: by_median, SECOND: by_second}
