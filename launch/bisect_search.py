"""Adaptive sweeps: each curve's next runs, within the budget that all curves share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from analysis.adaptive.design import Options, Proposal, State, propose, state
from cbs.errors import InputError
from cbs.key import curve_identity, on_a_curve
from cbs.pace import Pace
from cbs.record import RunFolder
from cbs.schema import Config
from launch.bisect_records import Id, Known, Trials, known
from launch.bisect_settings import Settings
from launch.cost import first_paces, kind
from launch.plan import Run, runs
from launch.submissions import carriers, submissions

# So often a run is started in one command before its batch size is left out: a failure may be the moment's.
_TRIES = 2


@dataclass
class Search:
    """One curve: its trials by batch size, and what is known of it.

    out: batch sizes that are not tried any more, and why.
    """

    label: str
    firsts: dict[int, Run]
    options: Options
    out: dict[int, str] = field(default_factory=dict)
    known: Known = field(default_factory=lambda: Known([], [], {}, 0.0, 0.0, {}))
    state: State = field(default_factory=lambda: State(None, (None, None), None, None, False, "nothing is known yet"))

    @property
    def config(self) -> Config:
        return next(iter(self.firsts.values())).config

    def run(self, b: int, seed: int, until: int | None) -> Run:
        first = self.firsts[b]
        return Run(first.config.granted(until), RunFolder(first.folder.trial, seed), self.label)

    def look(self, trials: Trials, at_work: Mapping[Id, int], shares: Mapping[Id, float]) -> None:
        """Take in what the records say now. Raises RecordError."""
        mine = {run.folder.key: b for b, run in self.firsts.items()}
        self.known = known(self.config, {**trials.of(self.config), **mine}, at_work, shares)
        if self.known.seen:
            self.state = state(self.known.seen, self.options)

    def proposals(self, step_cost: Callable[[int], float], count: int) -> list[Proposal]:
        left = tuple(b for b in self.options.sizes if b not in self.out)
        if self.state.decided or not left or not count:
            return []
        return propose(self.known.seen, self.known.pending, replace(self.options, sizes=left), step_cost, count)


@dataclass
class Adaptive:
    """All curves of one command.

    why, takes: of each run that was proposed: in words, and the device seconds that it is expected to take.
    aside: runs that were set aside after failing again and again. exhausted: whether the budget had no room for
    a proposal.
    """

    settings: Settings
    searches: list[Search]
    why: dict[Run, str] = field(default_factory=dict)
    takes: dict[Run, float] = field(default_factory=dict)
    aside: list[Run] = field(default_factory=list)
    exhausted: bool = False
    _given: Counter[tuple[Run, int]] = field(default_factory=Counter)
    _trials: Trials | None = None
    _first: dict[str, Pace] = field(default_factory=dict)

    @property
    def study(self) -> Path:
        return self.searches[0].config.study_dir

    @property
    def configs(self) -> list[Config]:
        """Every trial that may be tried."""
        return [run.config for search in self.searches for run in search.firsts.values()]

    @property
    def seconds(self) -> float:
        return sum(search.known.seconds for search in self.searches)

    @property
    def sfo(self) -> float:
        return sum(search.known.sfo for search in self.searches)

    @property
    def decided(self) -> bool:
        return all(search.state.decided for search in self.searches)

    @property
    def spent(self) -> bool:
        """Whether what the curves took is all that they may."""
        hours, gradients = self.settings.budget_gpu_hours, self.settings.budget_sfo
        return (hours is not None and self.seconds >= 3600 * hours) or (gradients is not None and self.sfo >= gradients)

    def reckon(self, device: str, step_ms: float, tflops: float | None) -> None:
        """Take the arithmetic of the trials for their paces, as long as there are no records."""
        placed = {kind(config): replace(config, device=device) for config in self.configs}
        found = first_paces(list(placed.values()), step_ms, tflops)
        self._first = {name: found[kind(config)] for name, config in placed.items()}

    def look(self, at_work: Mapping[Id, int]) -> None:
        """Take in what the records say now. at_work: how far the runs may go that are. Raises RecordError."""
        if self._trials is None:
            self._trials = Trials(self.study)
        shares = {id: carrier.share for id, carrier in carriers(submissions(self.study)).items()}
        for search in self.searches:
            search.look(self._trials, at_work, shares)

    def next(self, count: int) -> list[Run]:
        """Up to so many runs to start now, each with its grant; the curves with the least at work come first."""
        wanted = [search.proposals(self._step_cost(search), count) for search in self.searches]
        busy = [len(search.known.pending) for search in self.searches]
        gradients, seconds = self._left()
        chosen: list[Run] = []
        while len(chosen) < count and any(wanted):
            at = min((at for at, some in enumerate(wanted) if some), key=lambda at: (busy[at], at))
            search, proposal = self.searches[at], wanted[at].pop(0)
            run = self._granted(search, proposal, gradients, seconds)
            if run is None:
                continue
            chosen.append(run)
            busy[at] += 1
            self.why[run] = proposal.why
            steps, taken = self._takes(search, proposal.batch_size, run.seed, run.config.asked_steps)
            gradients -= steps * proposal.batch_size
            seconds -= taken
            self.takes[run] = taken
        return chosen

    def _takes(self, search: Search, b: int, seed: int, until: int) -> tuple[int, float]:
        """Steps and device seconds that a run is from the end of its grant."""
        steps = max(0, until - search.known.steps.get((b, seed), 0))
        return steps, steps * self._pace(search).seconds(b) * search.config.gpus_per_trial

    def started(self, run: Run) -> None:
        """A proposed run was started, or handed to Slurm."""
        self._given[run, run.config.asked_steps] += 1

    def _left(self) -> tuple[float, float]:
        """Gradients and seconds that the budget has left when everything at work has used up its grant."""
        gradients, seconds = self.settings.budget_sfo, self.settings.budget_gpu_hours
        left = [
            (float("inf") if gradients is None else gradients) - self.sfo,
            (float("inf") if seconds is None else 3600 * seconds) - self.seconds,
        ]
        for search in self.searches:
            for one in search.known.pending:
                steps, taken = self._takes(search, one.batch_size, one.seed, one.until)
                left[0] -= steps * one.batch_size
                left[1] -= taken
        return left[0], left[1]

    def _granted(self, search: Search, proposal: Proposal, gradients: float, seconds: float) -> Run | None:
        """The run with its grant, up to an evaluation and within the budget; None where there is no room, or no use."""
        b = proposal.batch_size
        config = search.firsts[b].config
        cadence = config.cadence
        if b in search.out:
            return None
        last = cadence.last(config.budget)
        until = min(cadence.following(min(proposal.until, last) - 1), last)
        at = search.known.steps.get((b, proposal.seed), 0)
        room = min(gradients / b, seconds / (self._pace(search).seconds(b) * search.config.gpus_per_trial))
        if until - at > room:
            self.exhausted = True
            until = cadence.last(int(at + max(room, 0.0)))
            done = next((s.steps for s in search.known.seen if (s.batch_size, s.seed) == (b, proposal.seed)), 0)
            if until <= done:
                return None
        run = search.run(b, proposal.seed, until)
        if run.set_aside():
            self.aside.append(run)
            search.out[b] = "set aside after failing alike again and again"
            return None
        if self._given[run, until] >= _TRIES:
            search.out[b] = f"failed {_TRIES} times"
            return None
        return run

    def _pace(self, search: Search) -> Pace:
        name = kind(search.config)
        points: dict[int, list[float]] = {}
        for other in (one for one in self.searches if kind(one.config) == name):
            for b, seconds in other.known.paces.items():
                points.setdefault(b, []).append(seconds)
        return (
            self._first[name].through({b: sum(s) / len(s) for b, s in points.items()}) if points else self._first[name]
        )

    def _step_cost(self, search: Search) -> Callable[[int], float]:
        return float if self.settings.cost == "sfo" else self._pace(search).seconds


def searches(configs: Sequence[Config], settings: Settings) -> list[Search]:
    """One search for each curve among these trials. Raises InputError where they can't share a machine or a study."""
    studies = sorted({config.name for config in configs})
    if len(studies) > 1:
        raise InputError(f"name is {', '.join(studies)}: an adaptive sweep works in one study; start one for each.")
    for config in configs:
        if not on_a_curve(config.to_dict()):
            raise InputError(
                f"batch_size is {config.batch_size.label}{' after shared steps' if config.branch_from else ''}: an "
                "adaptive sweep looks for one batch size that is kept from the first step on; use a grid."
            )
    by_curve: dict[str, dict[int, Run]] = {}
    labels: dict[str, str] = {}
    for run in runs([replace(config, seeds=1) for config in configs]):
        name = curve_identity(run.config.to_dict())
        by_curve.setdefault(name, {})[run.config.batch_size.initial] = run
        labels.setdefault(name, run.label)
    found = []
    for name, firsts in by_curve.items():
        options = Options(
            sizes=tuple(sorted(firsts)),
            most_steps={b: one.config.cadence.last(one.config.budget) for b, one in firsts.items()},
            seeds=settings.seeds,
            width_octaves=settings.width_octaves,
            within=settings.within,
        )
        found.append(Search(labels[name], dict(sorted(firsts.items())), options))
    return found
