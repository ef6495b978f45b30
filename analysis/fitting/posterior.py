"""The posterior of a curve: draws of ln N(b), from its censored runs and a prior that no form dominates.

Given the median run at each swept batch size, the runs at one size say nothing of another, so the likelihood is a
product of functions of one number each. Each is matched by a normal "site"; under normal sites every combination of
form, departure and spread has its evidence in closed form. Draws from that mixture are then weighted by what the runs
really say over what the sites say, so the result is exact but for the number of draws. Nothing is random: the draws
come from fixed streams.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from analysis.fitting import prior
from analysis.fitting.likelihood import Observations
from analysis.fitting.models import Array, Index, Mask
from analysis.fitting.noise import HEAVY, NORMAL, log_likelihood

DRAWS = 3000
# Fewer effective draws than this, and more are made, in rounds, up to MOST times DRAWS.
ENOUGH, MOST = 300, 8
PER_OCTAVE = 8
# An exact ln N is a bracket of so much.
_EXACT = 2e-3
# A site is a little wider than what it stands for, so that no weight is large.
_WIDER = 1.1
# Combinations of the spread whose evidence can't come within e^-14 of the best are left out.
_NEGLIGIBLE = 14.0
# Where nothing arrived, ln N lies somewhere beyond: sites at these distances and of these widths, all of them tried.
_BEYOND = ((0.4, 0.8), (2.0, 1.6), (7.0, 5.0))


@dataclass(frozen=True)
class Posterior:
    """Weighted draws of a curve.

    sizes: (K,) swept batch sizes. x: (G,) ln b, from the smallest to the largest, eight points to an octave. at: (K,)
    where the sizes stand among them. log_n: (S, G) draws of ln N(b), the median run's. sigma: (S, K) the spread of ln N
    between seeds; tails: (S,) its kind (analysis.fitting.noise). weight: (S,), their sum is 1.
    """

    sizes: Array
    x: Array
    at: Index
    log_n: Array
    sigma: Array
    tails: Array
    weight: Array

    @property
    def log_sfo(self) -> Array:
        """ln N(b)·b (S, G)."""
        return self.log_n + self.x

    @property
    def b(self) -> Array:
        """Batch sizes (G,), those that were swept to the last digit."""
        found = np.exp(self.x)
        found[self.at] = self.sizes
        return found

    @property
    def effective(self) -> float:
        """How many equally weighted draws tell as much (Kish)."""
        return float(1 / (self.weight**2).sum())

    def quantiles(self, levels: tuple[float, ...]) -> Array:
        """Quantiles of ln N(b) at every point of x, (levels, G)."""
        order = np.argsort(self.log_n, 0)
        below = np.cumsum(self.weight[order], 0)
        rows = [np.minimum((below < level).sum(0), len(order) - 1) for level in levels]
        ordered = np.take_along_axis(self.log_n, order, 0)
        return np.stack([ordered[row, np.arange(len(self.x))] for row in rows])

    def even(self, count: int) -> Posterior:
        """As many draws of equal weight, taken at even steps of the cumulated weight."""
        rows = np.searchsorted(np.cumsum(self.weight), (np.arange(count) + 0.5) / count * (1 - 1e-12))
        rows = np.minimum(rows, len(self.weight) - 1)
        return Posterior(
            self.sizes,
            self.x,
            self.at,
            self.log_n[rows],
            self.sigma[rows],
            self.tails[rows],
            np.full(count, 1 / count),
        )


def runs_of(frame: pd.DataFrame) -> Observations:
    """Every run of a curve's frame as a bracket of ln N.

    A diverged run never arrives: it counts as one that had not arrived when it had spent as many gradients as any run
    of the curve.
    """
    seen = Observations.of(frame)
    diverged = frame[frame["outcome"] == "diverged"]
    if diverged.empty:
        return seen
    most = float((frame["steps"] * frame["batch_size"]).max())
    b = diverged["batch_size"].to_numpy(float)
    low = np.log(most / b)
    return Observations(
        np.concatenate([seen.b, b]),
        np.concatenate([seen.low, low]),
        np.concatenate([seen.high, np.full(len(b), np.inf)]),
    )


def posterior(seen: Observations) -> Posterior | None:
    """The posterior of ln N(b) between the smallest and the largest size with a run; None where none says anything."""
    told = np.isfinite(seen.low) | np.isfinite(seen.high)
    if not told.any():
        return None
    b, low, high = seen.b[told], seen.low[told], seen.high[told]
    low = np.where(high - low < _EXACT, high - _EXACT, low)
    problem = _Problem.of(b, low, high)
    proposal = _proposal(problem)
    rounds = [_drawn(problem, proposal, 0)]
    while _effective(rounds) < ENOUGH and len(rounds) < MOST:
        rounds.append(_drawn(problem, proposal, len(rounds)))
    log_n, sigma, tails, log_weight = (np.concatenate(each) for each in zip(*rounds, strict=True))
    weight = np.exp(log_weight - log_weight.max())
    return Posterior(problem.sizes, problem.x, problem.at, log_n, sigma, tails, weight / weight.sum())


def _effective(rounds: list[tuple[Array, Array, Array, Array]]) -> float:
    log_weight = np.concatenate([each[-1] for each in rounds])
    weight = np.exp(log_weight - log_weight.max())
    return float(weight.sum() ** 2 / (weight**2).sum())


@dataclass(frozen=True)
class _Problem:
    """Runs (n,) at sizes (K,), `which` says at which; and where the curve is drawn."""

    sizes: Array
    which: Index
    low: Array
    high: Array
    x: Array
    at: Index

    @classmethod
    def of(cls, b: Array, low: Array, high: Array) -> _Problem:
        sizes, which = np.unique(b, return_inverse=True)
        swept = np.log(sizes)
        count = max(2, round((swept[-1] - swept[0]) / prior.OCTAVE * PER_OCTAVE) + 1) if len(sizes) > 1 else 1
        even = np.linspace(swept[0], swept[-1], count)
        free = np.abs(even[:, None] - swept[None]).min(1) > 0.02
        x = np.sort(np.concatenate([even[free], swept]))
        return cls(sizes, which, low, high, x, np.searchsorted(x, swept))

    @property
    def reached(self) -> Mask:
        return np.isfinite(self.high)

    @property
    def proper(self) -> Mask:
        """(K,) whether runs bound the median at a size from both sides."""
        found = np.zeros(len(self.sizes), bool)
        for k in range(len(self.sizes)):
            here = self.which == k
            found[k] = bool((self.reached & here).any() and np.isfinite(self.low[here]).any())
        return found

    @property
    def centre(self) -> float:
        """Where ln N lies about."""
        ends = self.high[self.reached] if self.reached.any() else self.low
        return float(np.median(ends))

    @property
    def pivot(self) -> float:
        """ln b of the smallest size that reached its target; beyond the largest where none did."""
        arrived = self.which[self.reached]
        return float(np.log(self.sizes[arrived.min()])) if len(arrived) else float(self.x[-1] + prior.OCTAVE)


@dataclass(frozen=True)
class _Proposal:
    """The mixture that draws come from.

    spreads: M. sigma: (M, K). mean, variance: of sites, (C, M, K) for C ways of placing those of sizes where nothing
    arrived. evidence: (M, K) ln of what a proper site stands for. log_z: (C, M, T, Q) of each combination.
    """

    spreads: prior.Spreads
    sigma: Array
    mean: Array
    variance: Array
    evidence: Array
    log_z: Array
    tiles: prior.Tiles
    correlation: Array
    cholesky: Array


def _proposal(problem: _Problem) -> _Proposal:
    known, swept = prior.spreads(), np.log(problem.sizes)
    sigma, proper = known.at(swept), problem.proper
    mean, variance, evidence = _sites(problem, known.tails, sigma, proper)
    bound = known.log_weight + evidence.sum(1)
    rows = np.flatnonzero(bound > bound.max() - _NEGLIGIBLE)
    known, sigma, mean, variance, evidence = known.kept(rows), sigma[rows], mean[rows], variance[rows], evidence[rows]
    ways = _BEYOND if not proper.all() else _BEYOND[:1]
    means, variances = np.repeat(mean[None], len(ways), 0), np.repeat(variance[None], len(ways), 0)
    for k, (limit, sign) in _limits(problem, proper).items():
        for c, (distance, width) in enumerate(ways):
            means[c, :, k], variances[c, :, k] = limit + sign * distance, width**2
    tiles = prior.tiles(problem.x, problem.pivot)
    correlation, cholesky = _correlation(tuple(problem.x.tolist()))
    told = evidence.sum(1) + known.log_weight
    log_z = np.stack([_evidence(problem, tiles, correlation, *each) for each in zip(means, variances, strict=True)])
    log_z += told[:, None, None] + np.log(prior.DEPARTURE_WEIGHTS)[:, None] + tiles.log_weight
    return _Proposal(known, sigma, means, variances, evidence, log_z, tiles, correlation, cholesky)


@lru_cache(maxsize=64)
def _correlation(x: tuple[float, ...]) -> tuple[Array, Array]:
    points = np.array(x)
    found = prior.departure(points, points)
    return found, np.asarray(np.linalg.cholesky(found + 1e-9 * np.eye(len(points))), float)


def _sites(problem: _Problem, tails: Array, sigma: Array, proper: Mask) -> tuple[Array, Array, Array]:
    """Mean, variance and ln ∫ of the likelihood of each proper size's median, (M, K)."""
    mean, variance = np.zeros_like(sigma), np.ones_like(sigma)
    evidence = np.zeros_like(sigma)
    u = np.linspace(-1, 1, 81)
    u = np.sign(u) * np.abs(u) ** 1.5
    for k in np.flatnonzero(proper):
        here = problem.which == k
        low, high = problem.low[here], problem.high[here]
        ends = np.concatenate([low[np.isfinite(low)], high[np.isfinite(high)]])
        middle, reach = 0.5 * (ends.max() + ends.min()), 0.5 * (ends.max() - ends.min())
        at = middle + u * (reach + 5 * sigma[:, k, None])
        told = np.empty_like(at)
        for kind in (NORMAL, HEAVY):
            rows = tails == kind
            told[rows] = log_likelihood(
                at[rows][:, None], sigma[rows, k][:, None, None], low[:, None], high[:, None], kind
            ).sum(1)
        top = told.max(1, keepdims=True)
        mass = np.exp(told - top) * np.gradient(at, axis=1)
        total = mass.sum(1)
        mean[:, k] = (mass * at).sum(1) / total
        variance[:, k] = (mass * (at - mean[:, k, None]) ** 2).sum(1) / total * _WIDER
        evidence[:, k] = top[:, 0] + np.log(total)
    return mean, variance, evidence


def _limits(problem: _Problem, proper: Mask) -> dict[int, tuple[float, int]]:
    """Where the median is bounded at sizes with a bound on one side only: the bound, and +1 where it lies beyond."""
    found = {}
    for k in np.flatnonzero(~proper):
        here = problem.which == k
        missed = here & ~problem.reached
        found[int(k)] = (float(problem.low[missed].max()), 1) if missed.any() else (float(problem.high[here].min()), -1)
    return found


def _directions(tiles: prior.Tiles, at: Index) -> Array:
    """What a tile's curve may do besides departing: move up and down, and along the form's parameters (Q, G, 3)."""
    free = np.full((*tiles.form[:, at].shape, 1), prior.LOCATION)
    return np.concatenate([free, tiles.moves[:, at]], -1)


def _evidence(problem: _Problem, tiles: prior.Tiles, correlation: Array, mean: Array, variance: Array) -> Array:
    """ln of the normal evidence (M, T, Q) of sites (M, K) under each size of departure and each tile."""
    at, count = problem.at, len(problem.sizes)
    prior_part = prior.DEPARTURES[:, None, None] ** 2 * correlation[np.ix_(at, at)]
    covariance = prior_part + variance[:, None, None, :] * np.eye(count)
    root = np.linalg.cholesky(covariance)
    inverse = np.linalg.inv(root)
    off = mean[:, None] - problem.centre - tiles.form[None][:, :, at]
    ways = _directions(tiles, at)
    white = np.einsum("mtij,mqj->mtqi", inverse, off, optimize=True)
    moved = np.einsum("mtij,qjp->mtqip", inverse, ways, optimize=True)
    inner = np.einsum("mtqip,mtqir->mtqpr", moved, moved, optimize=True) + np.eye(3)
    along = np.einsum("mtqip,mtqi->mtqp", moved, white, optimize=True)
    gained = (along * np.linalg.solve(inner, along[..., None])[..., 0]).sum(-1)
    volume = 2 * np.log(np.einsum("mtii->mti", root)).sum(-1)[..., None] + np.linalg.slogdet(inner)[1]
    return -0.5 * ((white**2).sum(-1) - gained + volume)


@lru_cache(maxsize=16)
def _normals(round_: int, width: int) -> Array:
    return np.random.default_rng([round_, width]).standard_normal((DRAWS, width))


def _drawn(problem: _Problem, proposal: _Proposal, round_: int) -> tuple[Array, Array, Array, Array]:
    """One round of draws: ln N (S, G), the spread (S, K), its tails (S,), and the logarithm of weights (S,)."""
    at, count, points = problem.at, len(problem.sizes), len(problem.x)
    way, spread, size, tile = _chosen(proposal.log_z, round_)
    mean, variance = proposal.mean[way, spread], proposal.variance[way, spread]
    scale = prior.DEPARTURES[size][:, None]
    everywhere = _directions(proposal.tiles, np.arange(points))[tile]
    normal = _normals(round_, points + 3 + count)
    curve = problem.centre + proposal.tiles.form[tile]
    curve += scale * (normal[:, :points] @ proposal.cholesky.T)
    curve += np.einsum("sgp,sp->sg", everywhere, normal[:, points : points + 3])
    here = everywhere[:, at]
    covariance = scale[..., None] ** 2 * proposal.correlation[np.ix_(at, at)] + here @ np.swapaxes(here, 1, 2)
    off = mean + np.sqrt(variance) * normal[:, points + 3 :] - curve[:, at]
    pull = np.linalg.solve(covariance + variance[:, None] * np.eye(count), off[..., None])[..., 0]
    curve += scale**2 * (pull @ proposal.correlation[at])
    curve += np.einsum("sgp,sp->sg", everywhere, np.einsum("skp,sk->sp", here, pull))
    sigma, tails = proposal.sigma[spread], proposal.spreads.tails[spread]
    median = curve[:, at]
    told = _log_likelihood(problem, median, sigma, tails)
    return curve, sigma, tails, told - _log_sites(problem, proposal, median, spread)


def _chosen(log_z: Array, round_: int) -> tuple[Index, Index, Index, Index]:
    """Combinations, in proportion to their evidence within each way of placing sites, and as many of each way."""
    ways = len(log_z)
    found = []
    for c in range(ways):
        count = DRAWS // ways + (c < DRAWS % ways)
        chance = np.exp(log_z[c].ravel() - log_z[c].max())
        below = np.cumsum(chance)
        even = (np.arange(count) + (0.5 + round_ * 0.6180339887498949) % 1.0) / count
        picked = np.minimum(np.searchsorted(below, even * below[-1]), log_z[c].size - 1)
        found.append((np.full(count, c), *np.unravel_index(picked, log_z.shape[1:])))
    way, spread, size, tile = (np.concatenate(each) for each in zip(*found, strict=True))
    return way, spread, size, tile


def _log_likelihood(problem: _Problem, median: Array, sigma: Array, tails: Array) -> Array:
    """ln of what all runs say of each draw (S,)."""
    found = np.zeros(len(median))
    which = problem.which
    for kind in (NORMAL, HEAVY):
        rows = tails == kind
        if rows.any():
            each = log_likelihood(median[rows][:, which], sigma[rows][:, which], problem.low, problem.high, kind)
            found[rows] = each.sum(1)
    return found


def _log_sites(problem: _Problem, proposal: _Proposal, median: Array, spread: Index) -> Array:
    """ln of what the sites say of each draw (S,), over all ways of placing those of sizes where nothing arrived."""
    proper = problem.proper
    k = np.flatnonzero(proper)
    mean, variance = proposal.mean[0][spread][:, k], proposal.variance[0][spread][:, k]
    found = (proposal.evidence[spread][:, k] + _log_normal(median[:, k], mean, variance)).sum(1)
    beyond = np.flatnonzero(~proper)
    ways = []
    for c, z in enumerate(proposal.log_z):
        placed = _log_normal(median[:, beyond], proposal.mean[c, 0, beyond], proposal.variance[c, 0, beyond]).sum(1)
        share = (DRAWS // len(proposal.log_z) + (c < DRAWS % len(proposal.log_z))) / DRAWS
        ways.append(placed + math.log(share) - np.logaddexp.reduce(z.ravel()))
    return found + np.logaddexp.reduce(ways, 0)


def _log_normal(value: Array, mean: Array, variance: Array) -> Array:
    return -0.5 * ((value - mean) ** 2 / variance + np.log(2 * math.pi * variance))
