"""Update rules on games whose answers are known, against theory and against NumPy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cbs.streams import stream_seed
from cbs.updates.extragradient import Extragradient
from cbs.updates.rule import SRFB, Alternating, Rule, Simultaneous
from cbs.updates.svre import SVRE
from tests.games import Affine, bilinear, monotone, sgd, solution

GOLDEN = 2 / (1 + math.sqrt(5))
rates = st.floats(0.01, 0.45)
few = settings(max_examples=10)


def play(rule: Rule, game: Affine, steps: int) -> np.ndarray:
    """(steps + 1, d): every point."""
    points = [game.z.numpy().copy()]
    for _ in range(steps):
        rule.learn(game, rule.draw(game))
        points.append(game.z.numpy().copy())
    return np.array(points)


def radius(matrix: np.ndarray) -> float:
    return float(np.abs(np.linalg.eigvals(matrix)).max())


@few
@given(rates)
def test_simultaneous_descent_leaves_a_bilinear_game_at_the_known_factor(rate: float) -> None:
    game = bilinear(rate)
    norms = np.linalg.norm(play(Simultaneous(game.players), game, 20), axis=1)
    np.testing.assert_allclose(norms, 5 * (1 + rate**2) ** (np.arange(21) / 2), rtol=1e-12)


@few
@given(rates)
def test_alternating_descent_keeps_its_invariant_on_a_bilinear_game(rate: float) -> None:
    """A symplectic map: x² + y² − ηxy stays what it is, so the orbit is bounded and doesn't converge."""
    game = bilinear(rate)
    x, y = play(Alternating(game.players), game, 60).T
    np.testing.assert_allclose(x**2 + y**2 - rate * x * y, 25 - 12 * rate, rtol=1e-10)


@few
@given(rates)
def test_extragradient_converges_on_a_bilinear_game_at_the_known_rate(rate: float) -> None:
    game = bilinear(rate)
    norms = np.linalg.norm(play(Extragradient(game.players, past=False), game, 50), axis=1)
    np.testing.assert_allclose(norms**2, 25 * (1 - rate**2 + rate**4) ** np.arange(51), rtol=1e-10)


@few
@given(st.floats(0.05, 0.45))
def test_extrapolation_from_the_past_converges_on_a_bilinear_game_at_the_known_rate(rate: float) -> None:
    """With u = x + iy, u' = u + iη ũ and ũ' = u' + iη ũ: the larger root has |λ|² = (1 + √(1 − 4η²))/2."""
    game = bilinear(rate)
    norms = np.linalg.norm(play(Extragradient(game.players, past=True), game, 120), axis=1)
    known = math.sqrt((1 + math.sqrt(1 - 4 * rate**2)) / 2)
    assert (norms[120] / norms[60]) ** (1 / 60) == pytest.approx(known, rel=4e-3)
    u = ahead = 3 + 4j
    for norm in norms[1:21]:
        u = u + 1j * rate * ahead
        ahead = u + 1j * rate * ahead
        assert norm == pytest.approx(abs(u), rel=1e-10)


@few
@given(st.floats(0.1, 0.8), st.floats(GOLDEN, 0.9))
def test_srfb_converges_on_a_bilinear_game_at_the_rate_of_its_linear_map(rate: float, relaxation: float) -> None:
    """Malitsky (2020, theorem 1): without noise this is his golden ratio algorithm, which converges for monotone
    fields up to λ = φ/2L, φ = 1/δ: here L = 1 and 1/(2δ) ≥ λ. The rate is the map's (u_i, ū_{i−1}) on C²."""
    rate = min(rate, 1 / (2 * relaxation))
    game = bilinear(rate)
    points = play(SRFB(game.players, relaxation), game, 160)
    norms = np.linalg.norm(points, axis=1)
    known = radius(np.array([[1 - relaxation + 1j * rate, relaxation], [1 - relaxation, relaxation]]))
    assert known < 1
    assert (norms[160] / norms[80]) ** (1 / 80) == pytest.approx(known, rel=5e-3)


def test_srfb_with_averaging_comes_near_the_solution_of_a_noisy_bilinear_game() -> None:
    """Franci & Grammatico (2020, theorem 2): with a constant step and noise of bounded variance, the average of the
    iterates comes to a neighbourhood of the solution, while the last iterate keeps moving about."""
    game = bilinear(0.3, noise=1.0)
    points = play(SRFB(game.players, GOLDEN), game, 6000)
    late = np.linalg.norm(points[1000:], axis=1).mean()
    averages = [np.linalg.norm(points[1000 : 1000 + n].mean(0)) for n in (50, 500, 5000)]
    assert averages[2] < 0.05 < 0.5 < late
    assert averages[2] < averages[0]


def test_full_relaxation_never_leaves_its_shadow() -> None:
    """δ = 1: θ_{i+1} = θ_0 − λ∇L(θ_i)."""
    game = bilinear(0.5)
    points = play(SRFB(game.players, 1.0), game, 5)
    field = np.array([[0.0, 1.0], [-1.0, 0.0]])
    for before, after in itertools.pairwise(points):
        np.testing.assert_allclose(after, points[0] - 0.5 * field @ before, rtol=1e-12)


@few
@given(st.integers(1, 3), st.integers(0, 10**6))
def test_svres_estimate_is_unbiased(b: int, seed: int) -> None:
    """Its mean over all batches of b of 5 samples is the full gradient, away from the snapshot too."""
    game = monotone(5, sgd(0.1), b, seed)
    rule = SVRE(game.players, False, 1.0, None, seed)
    rule.draw(game)
    game.put(np.random.default_rng(seed).normal(size=4))
    found = [np.concatenate(estimate(rule, game, batch)) for batch in itertools.combinations(range(5), b)]
    full = game.field(range(5)).numpy()
    np.testing.assert_allclose(np.mean(found, 0), full, rtol=1e-9, atol=1e-9)


def estimate(rule: SVRE, game: Affine, batch: tuple[int, ...]) -> list[np.ndarray]:
    return [direction[0].numpy() for direction in rule._directions(game, list(batch))[0]]


def test_svres_variance_vanishes_at_the_solution_where_plain_gradients_keep_theirs() -> None:
    game = monotone(6, sgd(0.1))
    end = solution(game)
    away = np.random.default_rng(1).normal(size=4)
    spread, plain = [], []
    for distance in (1.0, 0.1, 0.01, 0.0):
        game.put(end + distance * away)
        rule = SVRE(game.players, False, 1.0, None, 0)
        rule.draw(game)
        game.put(end - distance * away)
        found = [np.concatenate(estimate(rule, game, (i,))) for i in range(6)]
        spread.append(np.var(found, axis=0).sum())
        plain.append(np.var([game.field([i]).numpy() for i in range(6)], axis=0).sum())
    np.testing.assert_allclose(spread[:3], spread[0] * np.array([1, 1e-2, 1e-4]), rtol=1e-6)
    assert spread[3] < 1e-24
    assert plain[3] > 1


def second_moments(game: Affine, rate: float, chance: float) -> float:
    """How E|(z − z*, θ^S − z*)|² changes per step of SVRE with one sample, exactly: ρ(E[M ⊗ M]) over all draws."""
    a, mean, eye, zero = game.matrices.numpy(), game.matrices.mean(0).numpy(), np.eye(4), np.zeros((4, 4))
    total = np.zeros((64, 64))
    for i, j in itertools.product(range(len(a)), repeat=2):
        ahead = np.hstack([eye - rate * a[i], -rate * (mean - a[i])])
        step = np.hstack([eye, zero]) - rate * (a[j] @ ahead + np.hstack([zero, mean - a[j]]))
        keep = np.vstack([step, np.hstack([zero, eye])])
        renew = np.vstack([np.hstack([eye, zero]), np.hstack([eye, zero])])  # a snapshot, before the step
        for m, p in ((keep, 1 - chance), (keep @ renew, chance)):
            total += p * np.kron(m, m) / len(a) ** 2
    return radius(total)


def test_svre_converges_linearly_with_a_constant_step_where_plain_descent_stalls() -> None:
    """No slower than its second moments, whose rate, 0.91 a step, is of the order 1 − ηµ that theory promises."""
    rate, steps = 0.04, 500
    order = np.random.default_rng(2).integers(8, size=4 * steps).tolist()
    game, plain, extra = (monotone(8, sgd(rate), order=order) for _ in range(3))
    end = solution(game)
    known = second_moments(game, rate, 1 / 8)
    assert known < 1 - rate
    far = np.linalg.norm(play(SVRE(game.players, False, 1.0, None, 0), game, steps) - end, axis=1)
    for step in (100, 250, 500):
        assert far[step] < 20 * far[0] * known ** (step / 2)
    for rule, stuck in ((Simultaneous(plain.players), plain), (Extragradient(extra.players, False), extra)):
        assert np.linalg.norm(play(rule, stuck, steps) - end, axis=1)[-100:].mean() > 1e-2


@pytest.mark.parametrize(("past", "evaluations"), [(False, 4), (True, 2)])
def test_snapshots_come_with_the_probability_asked_for(past: bool, evaluations: int) -> None:
    game = monotone(40, sgd(1e-3), b=2)
    rule = SVRE(game.players, past, 2.0, None, 3)
    steps = 1000
    play(rule, game, steps)
    p = 2.0 * 2 / 40
    assert abs(rule._snapshots - p * steps) < 4 * math.sqrt(p * (1 - p) * steps)
    assert game.evaluated == 2 * (steps * evaluations * 2 + rule._snapshots * 40)  # once for each player


def adam(game_rate: float, beta1: float, beta2: float) -> Callable:
    return lambda parameters: torch.optim.Adam(parameters, game_rate, (beta1, beta2), 1e-8, fused=True)


class NumpyAdam:
    """Kingma & Ba (2015), algorithm 1: the step, given a gradient."""

    def __init__(self, rate: float, beta1: float, beta2: float) -> None:
        self.rate, self.beta1, self.beta2, self.t, self.m, self.v = rate, beta1, beta2, 0, 0.0, 0.0

    def __call__(self, g: np.ndarray) -> np.ndarray:
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g * g
        m, v = self.m / (1 - self.beta1**self.t), self.v / (1 - self.beta2**self.t)
        return self.rate * m / (np.sqrt(v) + 1e-8)


def fields(game: Affine) -> Callable[[np.ndarray, int], np.ndarray]:
    a, c = game.matrices.numpy(), game.offsets.numpy()
    return lambda z, i: a[i % len(a)] @ z + c[i % len(a)]


MOMENTS = st.tuples(st.floats(1e-3, 0.1), st.floats(0, 0.9), st.floats(0.5, 0.999))


@few
@given(MOMENTS, st.floats(GOLDEN, 1.0))
def test_srfb_with_adam_is_its_equations(moments: tuple[float, float, float], relaxation: float) -> None:
    game = monotone(5, adam(*moments))
    found = play(SRFB(game.players, relaxation), game, 12)
    field, step = fields(game), NumpyAdam(*moments)
    z = shadow = found[0]
    for i in range(12):
        g = field(z, i)
        shadow = (1 - relaxation) * z + relaxation * shadow
        z = shadow - step(g)
        np.testing.assert_allclose(found[i + 1], z, rtol=1e-9, atol=1e-11)


@few
@given(MOMENTS)
def test_extra_adam_is_gidels_algorithm_4(moments: tuple[float, float, float]) -> None:
    """Both of its options: each gradient that a step goes along enters the moments, the past one a second time."""
    for past in (False, True):
        game = monotone(5, adam(*moments))
        found = play(Extragradient(game.players, past), game, 12)
        field, step = fields(game), NumpyAdam(*moments)
        z, before, drawn = found[0], None, itertools.count()
        for i in range(12):
            g = before if past else field(z, next(drawn))
            ahead = z if g is None else z - step(g)
            before = field(ahead, next(drawn))
            z = z - step(before)
            np.testing.assert_allclose(found[i + 1], z, rtol=1e-9, atol=1e-11)


@few
@given(MOMENTS, st.booleans())
def test_svre_with_adam_is_its_equations_with_moments_of_its_own_for_looking_ahead(
    moments: tuple[float, float, float], past: bool
) -> None:
    game = monotone(5, adam(*moments))
    found = play(SVRE(game.players, past, 2.0, None, 7), game, 12)
    field, step, look = fields(game), NumpyAdam(*moments), NumpyAdam(*moments)
    z, before, drawn = found[0], None, itertools.count()
    for i in range(12):
        if i == 0 or stream_seed(7, "snapshot", i) / 2**63 < 2.0 / 5:
            snapshot = z
            mean = np.mean([field(z, k) for k in range(5)], 0)

        def reduced(at: np.ndarray, k: int, s: np.ndarray = snapshot, mu: np.ndarray = mean) -> np.ndarray:
            return mu + field(at, k) - field(s, k)

        g = before if past else reduced(z, next(drawn))
        ahead = z if g is None else z - look(g)
        before = reduced(ahead, next(drawn))
        z = z - step(before)
        np.testing.assert_allclose(found[i + 1], z, rtol=1e-9, atol=1e-11)
