"""What one more run would tell of b*: its outcomes under draws of the curve, and how each would move the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from analysis.fitting.cheapest import weighted_quantile
from analysis.fitting.models import Array
from analysis.fitting.noise import HEAVY, NORMAL, arrived
from analysis.fitting.posterior import Posterior

# Draws of the curve that outcomes are reckoned with, steps at which outcomes are told apart, and draws of what runs at
# work will say.
DRAWS, EDGES, IMAGINED = 600, 16, 6
# b* is looked for in cells of so many octaves.
CELL = 0.5
# A run that tells less is not worth starting: nats of b*, or the part of the expected regret that it takes away.
LEAST_NATS, LEAST_PART = 0.005, 0.01
# A grant is at least this much longer than the run is, and at least this part of what the best size takes in all.
_LONGER, _SHORTEST = 1.4, 0.2
# No run is worth more than this many spreads beyond what the cheapest size takes: by then it is dearer for certain.
_DEARER = 2.5


@dataclass(frozen=True)
class Worth:
    """rate: what a run tells per expected step. enough: whether it tells enough to be started. until: which step."""

    rate: float
    enough: bool
    until: int


@dataclass(frozen=True)
class Prospects:
    """Draws of a curve, evenly weighted, and what is asked of them.

    cell: (S,) where each draw's b* lies, as one of so many `cells`. regret: (S, G) ln of what each batch size costs
    over the least; None where b* itself is asked for. log_least: ln of the most gradients, with 97.5 %, that the best
    size takes. ends: where b* lies, with 95 %.
    """

    known: Posterior
    cell: Array
    cells: int
    regret: Array | None
    log_least: float
    ends: tuple[float, float]

    @classmethod
    def of(cls, known: Posterior, by_regret: bool) -> Prospects:
        drawn = known.even(DRAWS)
        cost = drawn.log_sfo
        at = cost.argmin(1)
        cell = np.floor((drawn.x[at] - drawn.x[0]) / (CELL * math.log(2)) + 1e-9).astype(int)
        least = cost[np.arange(len(at)), at]
        regret = np.minimum(cost - least[:, None], 2.0) if by_regret else None
        low, high = weighted_quantile(drawn.x[at], drawn.weight, (0.025, 0.975))
        most = float(weighted_quantile(least, drawn.weight, (0.975,))[0])
        return cls(drawn, cell, int(cell.max()) + 1, regret, most, (math.exp(low), math.exp(high)))

    def imagined(self, runs: Sequence[tuple[int, float, float]]) -> Array:
        """Weights (J, S) after J draws of what runs at work (b, steps done, until) will say; J = 1 with none at work.

        The draws are spread evenly, not random: every so many of the curve's, and of each run Kronecker's sequence of
        the golden ratio.
        """
        count = len(self.known.weight)
        if not runs:
            return np.full((1, count), 1 / count)
        weights = []
        for j in range(IMAGINED):
            s = int((j + 0.5) / IMAGINED * count)
            log_weight = np.zeros(count)
            for i, (b, done, until) in enumerate(runs):
                share = ((j + 0.5) / IMAGINED + (i + 1) * 0.6180339887498949) % 1.0
                log_weight += self._said(b, *self._outcome(s, b, done, until, share))
            weight = np.exp(log_weight - log_weight.max())
            weights.append(weight / weight.sum())
        return np.stack(weights)

    def _outcome(self, s: int, b: int, done: float, until: float, share: float) -> tuple[float, float]:
        """The bracket of ln N on one draw, at a quantile of a run from `done`, where it hadn't arrived, to `until`."""
        g, sigma = self._at(b)
        start = self._arrived(b, np.log(np.maximum([done], 1e-9)))[s, 0] if done > 0 else 0.0
        z = float(ndtri(min(max(start + share * (1 - start), 1e-9), 1 - 1e-9)))
        ln = float(self.known.log_n[s, g] + sigma[s] * z)
        return (ln - 0.05, ln) if ln < math.log(until) else (math.log(until), math.inf)

    def _said(self, b: int, low: float, high: float) -> Array:
        """ln P(low < ln N ≤ high) on each draw (S,)."""
        ends = self._arrived(b, np.array([low, min(high, 700.0)]))
        return np.log(np.maximum((1.0 if math.isinf(high) else ends[:, 1]) - ends[:, 0], 1e-12))

    def _at(self, b: int) -> tuple[int, Array]:
        """Where a batch size stands among the points, and the spread there (S,)."""
        x = math.log(b)
        return int(np.abs(self.known.x - x).argmin()), self.known.spreads.at(np.array([x]))[:, 0]

    def _arrived(self, b: int, log_steps: Array) -> Array:
        """P(a run at b has arrived by these steps) on each draw (S, T)."""
        g, sigma = self._at(b)
        z = (log_steps[None] - self.known.log_n[:, g, None]) / sigma[:, None]
        heavy = self.known.spreads.tails == HEAVY
        found = np.empty_like(z)
        found[~heavy], found[heavy] = arrived(z[~heavy], NORMAL), arrived(z[heavy], HEAVY)
        return found

    def dear(self, b: int) -> float:
        """The step by which a run at b that hasn't arrived shows that its batch size is dearer than the cheapest."""
        spread = float(np.median(self._at(b)[1]))
        return math.exp(min(self.log_least + _DEARER * spread - math.log(b), 60.0))

    def worth(
        self, weights: Array, b: int, done: float, most: float, any_arrived: bool, at_least: float = 0.0
    ) -> Worth | None:
        """How a run at b, trained for `done` steps already and for `most` at the most, best tells of b*.

        weights: (J, S). at_least: steps that it is to go in any case. While nothing has arrived anywhere, what counts
        is the chance that this run does. None where training it any further tells nothing.
        """
        if any_arrived:
            dear = self.dear(b)
            if done >= min(dear, most):
                return None
            shortest = max(_SHORTEST * math.exp(self.log_least) / b, at_least)
            last = min(most, max(dear, done * _LONGER))
        else:
            if done >= most:
                return None
            shortest, last = most / 20, most
        first = min(max(_LONGER * done, shortest, 1.0), last)
        edges = np.unique(np.ceil(np.append(np.geomspace(first, last, EDGES)[:-1], last)))
        edges = edges[(edges > done) & (edges <= math.ceil(last))]
        by = self._arrived(b, np.log(edges))
        if done > 0:
            before = self._arrived(b, np.log([done]))
            by = np.clip((by - before) / np.maximum(1 - before, 1e-12), 0.0, 1.0)
        came, not_yet = np.diff(by, axis=1, prepend=0.0), 1 - by
        middle = 0.5 * (np.concatenate([[done], edges[:-1]]) + edges)
        mean_came, mean_not = weights @ came, weights @ not_yet  # (J, T)
        steps = ((mean_came * middle).cumsum(1) + mean_not * edges - done).mean(0)
        if not any_arrived:
            told, enough = (weights @ by).mean(0), np.full(len(edges), True)
        elif self.regret is None:
            told = self._nats(weights, came, not_yet)
            enough = told >= LEAST_NATS
        else:
            told, part = self._less_regret(weights, came, not_yet)
            enough = part >= LEAST_PART
        rate = told / np.maximum(steps, 1.0)
        at = int(np.where(enough, rate, -1.0).argmax()) if enough.any() else int(rate.argmax())
        return Worth(float(rate[at]), bool(enough[at]), int(edges[at]))

    def _nats(self, weights: Array, came: Array, not_yet: Array) -> Array:
        """The mutual information (T,) of the cell of b* and of when the run arrives, if by each edge."""
        inside = np.zeros((len(self.cell), self.cells))
        inside[np.arange(len(self.cell)), self.cell] = 1.0
        of_cell = weights @ inside  # (J, C)
        joint_came = np.einsum("js,sc,st->jct", weights, inside, came, optimize=True)
        joint_not = np.einsum("js,sc,st->jct", weights, inside, not_yet, optimize=True)

        def information(joint: Array) -> Array:
            total = joint.sum(1, keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):
                each = np.where(joint > 1e-300, joint * np.log(joint / (of_cell[..., None] * total)), 0.0)
            return each.sum(1)

        return (information(joint_came).cumsum(1) + information(joint_not)).mean(0)

    def _less_regret(self, weights: Array, came: Array, not_yet: Array) -> tuple[Array, Array]:
        """By how much the least expected regret falls once the outcome by each edge is known (T,), and which part."""
        regret = self.regret
        assert regret is not None
        now = (weights @ regret).min(1)  # (J,)

        def least(chance: Array) -> Array:
            weighted = weights[:, None, :] * chance.T[None]  # (J, T, S)
            return np.asarray((weighted @ regret).min(2))

        after = least(came).cumsum(1) + least(not_yet)
        gained = np.maximum(now[:, None] - after, 0.0)
        return gained.mean(0), gained.mean(0) / max(float(now.mean()), 1e-12)
