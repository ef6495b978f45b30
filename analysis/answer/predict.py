"""Answers to what b* is, side by side, each with the device time that it takes to have it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.answer.source import Source
from analysis.answer.wording import PAPER, mark
from analysis.curves.studies import Run
from analysis.fitting.fit import Fit
from analysis.fitting.profile import LIMIT, Interval
from analysis.output.tables import Cell, Table, number, short, words
from analysis.theory.carried import Theory
from cbs.outcome import Evaluation, Noise
from cbs.record import read_json

B_STAR = "b*"
NETWORKS = ("generator", "discriminator")


@dataclass(frozen=True)
class Answer:
    """One answer for one curve; b_star is None where it has none, and `source` says why.

    kind: measured, b*, the paper's form, closed form, or "noise, <network>". interval: 95 %, None at an
    open end. hours: device hours of the runs that it needs. step: of a noise scale. source: from what it comes, in
    words.
    """

    curve: str
    kind: str
    b_star: float | None
    interval: Interval
    hours: float | None
    source: str
    step: int | None = None


def predict(sources: Sequence[Source], found: Theory | None) -> list[Answer]:
    """Every curve's answers: measured, b*, the paper's and closed form, noise scales at one run's start and end."""
    pairs = [(one, [r for r in s.runs if r.group == one.curve.group]) for s in sources for one in s.fits if s.runs]
    costs = {one.curve.name: sum(map(device_hours, runs)) for one, runs in pairs}
    answers = []
    for one, runs in pairs:
        name = one.curve.name
        target = f" to {one.curve.target}" if one.curve.target else ""
        every = f"all {len(runs)} runs{target}"
        apart = " or ".join(f"{b:g}" for b in one.measured.candidates)
        unknown = f"{apart} can't be told apart, from " if one.measured_b_star is None and apart else ""
        answers.append(Answer(name, "measured", one.measured_b_star, (None, None), costs[name], f"{unknown}{every}"))
        answers.append(Answer(name, B_STAR, one.b_star, one.b_star_ci, costs[name], every))
        form = one.hyperbola
        rejected = mark(one.goodness).strip()
        said = f"{rejected} {every}".strip()
        answers.append(Answer(name, PAPER.removeprefix("the "), form.b_star, form.b_star_ci, costs[name], said))
        answers.append(_closed_form(one, found, costs))
        answers += _noise(name, runs)
    return answers


def _closed_form(one: Fit, found: Theory | None, costs: dict[str, float]) -> Answer:
    name, kind = one.curve.name, "closed form"
    estimate = found.from_measured(one.curve.label) if found else None
    if found is None or estimate is None:
        why = "no curve to take r from" if found is None else "no closed form, or another network than r's"
        if found is not None and found.measured_ratio is None:
            why = f"sizes of {found.source} can't be told apart, so no measured b* to take r from"
        return Answer(name, kind, None, (None, None), None, why)
    if name == found.source:
        return Answer(name, kind, estimate, (None, None), 0.0, "predicts nothing: r comes from this measured b*")
    return Answer(name, kind, estimate, (None, None), costs[found.source], f"r from the measured b* of {found.source}")


def device_hours(run: Run) -> float:
    """Hours of GPUs, or of cores on a CPU, that a run trained and evaluated; runs that shared one count in full."""
    return sum(run.result.seconds.values()) * _devices(run) / 3600


def _devices(run: Run) -> int:
    return int(run.config.get("gpus_per_trial", 1))


def _noise(name: str, runs: Sequence[Run]) -> list[Answer]:
    """Noise scales of one run, of the first seed at the middle one of the batch sizes that have any."""
    known = [(run, measured) for run in runs if (measured := [e for e in run.trajectory if e.noise])]
    if not known:
        return [Answer(name, f"noise, {network}", None, (None, None), None, _why_not(runs)) for network in NETWORKS]
    sizes = sorted({run.batch_size for run, _ in known})
    middle = sizes[(len(sizes) - 1) // 2]
    run, measured = min(((r, m) for r, m in known if r.batch_size == middle), key=lambda pair: pair[0].folder.seed)
    ends = {e.step: e for e in (measured[0], measured[-1])}
    return [_scale(name, network, run, e) for e in ends.values() for network in NETWORKS]


def _why_not(runs: Sequence[Run]) -> str:
    if not any(run.config.get("noise_batches", 0) for run in runs):
        return "not measured: noise_batches is 0, or the records are older"
    if all(_devices(run) > 1 for run in runs):
        return "not measured where several processes share a batch"
    return "not measured yet: the runs are too short (docs/prediction.md)"


def _scale(name: str, network: str, run: Run, evaluation: Evaluation) -> Answer:
    value, interval = with_error(evaluation.noise[network])
    hours = evaluation.seconds * _devices(run) / 3600
    said = f"one run, b = {run.batch_size}, up to step {evaluation.step:,}"
    return Answer(name, f"noise, {network}", value, interval, hours, said, evaluation.step)


def with_error(noise: Noise) -> tuple[float | None, Interval]:
    """The noise scale and its 95 % interval, from that of |G|²/tr Σ, whose denominator is far from 0.

    Open above where |G|² may be 0.
    """
    if not noise.sigma2 > 0:
        return None, (None, None)
    inverse = noise.norm2 / noise.sigma2
    variance = noise.norm2_error**2 - 2 * inverse * noise.covariance + (inverse * noise.sigma2_error) ** 2
    width = LIMIT * math.sqrt(max(variance, 0.0)) / noise.sigma2
    low, high = (1 / end if end > 0 else None for end in (inverse + width, inverse - width))
    return noise.scale, (low, high)


def unit(sources: Sequence[Source]) -> str:
    """What device hours are hours of."""
    kinds = {_device(run) for source in sources for run in source.runs}
    return (
        {"cpu": "core hours", "cuda": "GPU hours"}.get(kinds.pop(), "device hours")
        if len(kinds) == 1
        else "device hours"
    )


def _device(run: Run) -> str:
    path = run.folder.path / "environment.json"
    return str(read_json(path).get("device", "")).partition(":")[0] if path.exists() else ""


def table(answers: Sequence[Answer], unit: str) -> Table:
    """One row per curve and answer, with its ratio to b*."""
    made = Table(
        "predict",
        f"b* by several ways, and what each takes. {note(answers)}",
        ["curve", "answer", "b* (95 %)", "ratio", unit, "from"],
    )
    for answer in answers:
        ratio = _ratio(answer, answers)
        made.add(
            words(answer.curve),
            words(answer.kind if answer.step is None else f"{answer.kind}, step {answer.step:,}"),
            _cell(answer),
            Cell("–" if ratio is None else f"{short(ratio)}×", ratio),
            Cell("–" if answer.hours is None else short(answer.hours), answer.hours),
            words(answer.source),
        )
    return made


def _cell(answer: Answer) -> Cell:
    """Never b* without its set."""
    if answer.kind == B_STAR and answer.b_star is not None and answer.interval == (None, None):
        return Cell("can't be told", answer.b_star, answer.interval)
    return number(answer.b_star, answer.interval)


def _truth(curve: str, answers: Sequence[Answer]) -> float | None:
    return next((a.b_star for a in answers if a.curve == curve and a.kind == B_STAR), None)


def _ratio(answer: Answer, answers: Sequence[Answer]) -> float | None:
    truth = _truth(answer.curve, answers)
    return answer.b_star / truth if answer.b_star is not None and truth else None


def note(answers: Sequence[Answer]) -> str:
    """What a noise scale is worth here, by this study's own ratios."""
    said = "A noise scale knows no target and moves along training: it goes with b*, and isn't b*"
    ratios = [r for a in answers if a.kind == "noise, generator" and (r := _ratio(a, answers)) is not None]
    if not ratios:
        return f"{said}. How far off it is here is not known."
    low, high = short(min(ratios)), short(max(ratios))
    return f"{said}. The generator's is {low} to {high} times b* in this study, whatever its interval says."


def text(answers: Sequence[Answer], unit: str) -> str:
    """The table and what must be said beside it."""
    return "\n".join([table(answers, unit).text(), "", note(answers)])


def to_dict(answers: Sequence[Answer], unit: str) -> dict[str, Any]:
    """What `--json` prints."""
    rows = [{**asdict(a), "interval": list(a.interval), "ratio": _ratio(a, answers)} for a in answers]
    return {"unit": unit, "answers": rows, "note": note(answers)}
