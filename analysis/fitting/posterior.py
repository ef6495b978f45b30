"""The posterior of a curve: draws of ln N(b), from its censored runs and a prior that no form dominates.

Given the median run at each swept batch size, the runs at one size say nothing of another, so the likelihood is a
product of functions of one number each. Each is matched by a normal "site"; under normal sites every combination of
form, departure and spread has its evidence in closed form. Draws from that mixture are then weighted by what the runs
really say over what the sites say, so the result is exact but for the number of draws. Nothing is random: the draws
come from fixed streams.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd

from analysis.fitting import prior
from analysis.fitting.likelihood import Observations
from analysis.fitting.models import Array, Index, Mask
from analysis.fitting.noise import HEAVY, NORMAL, log_likelihood
from analysis.fitting.prior import OCTAVE, Spreads

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
    where the sizes stand among them. log_n: (S, G) draws of ln N(b), the median run's. spreads: (S,) draws of how runs
    scatter around it. weight: (S,), their sum is 1.
    """

    sizes: Array
    x: Array
    at: Index
    log_n: Array
    spreads: Spreads
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
        weight = np.full(count, 1 / count)
        return replace(self, log_n=self.log_n[rows], spreads=self.spreads.kept(rows), weight=weight)


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


def posterior(seen: Observations, among: Sequence[float] = ()) -> Posterior | None:
    """The posterior of ln N(b) between the smallest and the largest size with a run; None where none says anything.

    among: batch sizes that the curve is drawn for besides, with a run or without.
    """
    told = np.isfinite(seen.low) | np.isfinite(seen.high)
    if not told.any():
        return None
    b, low, high = seen.b[told], seen.low[told], seen.high[told]
    low = np.where(high - low < _EXACT, high - _EXACT, low)
    problem = _Problem.of(b, low, high, among)
    proposal = _proposal(problem)
    rounds = [_drawn(problem, proposal, 0)]
    while _effective(rounds) < ENOUGH and len(rounds) < MOST:
        rounds.append(_drawn(problem, proposal, len(rounds)))
    log_n, spread, log_weight = (np.concatenate(each) for each in zip(*rounds, strict=True))
    weight = np.exp(log_weight - log_weight.max())
    spreads = proposal.spreads.kept(spread)
    return Posterior(problem.sizes, problem.x, problem.at, log_n, spreads, weight / weight.sum())


def _effective(rounds: list[tuple[Array, Index, Array]]) -> float:
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
    def of(cls, b: Array, low: Array, high: Array, among: Sequence[float]) -> _Problem:
        sizes, which = np.unique(b, return_inverse=True)
        swept = np.log(sizes)
        named = np.log(np.unique([*sizes, *among]))
        count = max(2, round((named[-1] - named[0]) / OCTAVE * PER_OCTAVE) + 1) if len(named) > 1 else 1
        even = np.linspace(named[0], named[-1], count)
        free = np.abs(even[:, None] - named[None]).min(1) > 0.02
        x = np.sort(np.concatenate([even[free], named]))
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
        return float(np.log(self.sizes[arrived.min()])) if len(arrived) else float(self.x[-1] + OCTAVE)


@dataclass(frozen=True)
class _Proposal:
    """The mixture that draws come from.

    spreads: M. sigma: (M, K). mean, variance: of sites, (C, M, K) for C ways of placing those of sizes where nothing
    arrived. evidence: (M, K) ln of what a proper site stands for. log_z: (C, M, T, Q) of each combination.
    """

    spreads: Spreads
    sigma: Array
    mean: Array
    variance: Array
    evidence: Array
    log_z: Array
    tiles: prior.Tiles
    correlation: Array
    cholesky: Array


def _proposal(problem: _Problem) -> _Proposal:
    swept, proper = np.log(problem.sizes), problem.proper
    known = prior.spreads(0.5 * float(swept[0] + swept[-1]), problem.pivot)
    sigma = known.at(swept)
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
    """ln of the normal evidence (M, T, Q) of sites (M, K) under each size of departure and each tile.

    With A = departure + sites, H = (form, ways) of a tile: every inner product H'A⁻¹H at once, as one matrix product.
    """
    at, count = problem.at, len(problem.sizes)
    departure = prior.DEPARTURES[:, None, None] ** 2 * correlation[np.ix_(at, at)]
    root = np.linalg.cholesky(departure + variance[:, None, None, :] * np.eye(count))
    half = np.linalg.inv(root)
    inverse = np.swapaxes(half, -1, -2) @ half  # (M, T, K, K)
    shape = inverse.shape[:2]
    held = np.concatenate([tiles.form[:, at, None], _directions(tiles, at)], -1)  # (Q, K, 4)
    pairs = np.einsum("qka,qlb->klqab", held, held).reshape(count * count, -1)
    inner = (inverse.reshape(-1, count * count) @ pairs).reshape(*shape, len(held), 4, 4)
    site = mean - problem.centre
    pulled = np.einsum("mtkl,ml->mtk", inverse, site)
    with_site = (pulled.reshape(-1, count) @ held.transpose(1, 0, 2).reshape(count, -1)).reshape(*shape, len(held), 4)
    own = np.einsum("mtk,mk->mt", pulled, site)[..., None]
    off = own - 2 * with_site[..., 0] + inner[..., 0, 0]
    along = with_site[..., 1:] - inner[..., 0, 1:]
    gained, volume = _three(inner[..., 1:, 1:] + np.eye(3), along)
    volume = volume + 2 * np.log(np.einsum("mtkk->mtk", root)).sum(-1)[..., None]
    return -0.5 * (off - gained + volume)


def _three(matrix: Array, vector: Array) -> tuple[Array, Array]:
    """v'M⁻¹v and ln|M| of positive definite 3 × 3 matrices (…, 3, 3), by Cholesky's method written out."""
    a = np.sqrt(matrix[..., 0, 0])
    b, c = matrix[..., 1, 0] / a, matrix[..., 2, 0] / a
    d = np.sqrt(matrix[..., 1, 1] - b * b)
    e = (matrix[..., 2, 1] - b * c) / d
    f = np.sqrt(matrix[..., 2, 2] - c * c - e * e)
    x = vector[..., 0] / a
    y = (vector[..., 1] - b * x) / d
    z = (vector[..., 2] - c * x - e * y) / f
    return x * x + y * y + z * z, 2 * (np.log(a) + np.log(d) + np.log(f))


@lru_cache(maxsize=16)
def _normals(round_: int, width: int) -> Array:
    return np.random.default_rng([round_, width]).standard_normal((DRAWS, width))


def _drawn(problem: _Problem, proposal: _Proposal, round_: int) -> tuple[Array, Index, Array]:
    """One round of draws: ln N (S, G), which spread (S,), and the logarithm of weights (S,)."""
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
    return curve, spread, told - _log_sites(problem, proposal, median, spread)


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
