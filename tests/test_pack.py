"""What runs cost, and how they are packed into tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models import inception_v3

from cbs.outcome import Censored, Reached
from cbs.pace import Pace
from cbs.record import Result
from cbs.schema import Config
from cbs.work import _FEATURES, _Count, work
from launch.cost import Estimate, as_record, estimates, first_paces, from_record, kind, known_paces
from launch.crew import shared
from launch.job import devices
from launch.pack import lanes, packed
from launch.plan import Run, runs

PACE = Pace(0.004, 0.0001)


def estimate(seconds: float, share: float = 0.1) -> Estimate:
    return Estimate(None, 1.0, seconds, share, False)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.floats(1, 1e5), st.floats(0, 1)), min_size=1, max_size=80),
    st.one_of(st.just("auto"), st.integers(1, 9)),
    st.integers(1, 16),
    st.integers(0, 4),
    st.floats(0.1, 48),
)
def test_every_run_is_carried_once(found: list, pack: str | int, cores: int, gpus: int, hours: float) -> None:
    estimates = sorted((estimate(s, share) for s, share in found), key=lambda one: -one.seconds)
    loads = packed(estimates, pack, cores, gpus, hours)
    assert sorted(place for load in loads for place in load.runs) == list(range(len(found)))
    assert all(1 <= load.lanes <= min(cores, len(load.runs)) for load in loads)
    assert [load.hours for load in loads] == sorted((load.hours for load in loads), reverse=True)
    for load in loads:  # longest first, and the hours are no less than any of its runs takes
        assert load.runs == sorted(load.runs)
        assert load.hours * 3600 >= max(estimates[place].seconds for place in load.runs) - 1e-6


def test_auto_fills_the_time_limit_and_no_more() -> None:
    loads = packed([estimate(1800.0)] * 32, "auto", 4, 0, 2.0)
    assert [(len(load.runs), load.lanes, load.hours) for load in loads] == [(16, 4, 2.0)] * 2


def test_small_batches_share_a_gpu_and_large_ones_fill_it() -> None:
    assert PACE.share(2) == pytest.approx(0.0002 / 0.0042)
    shared = [lanes(estimate(1.0, PACE.share(b)), 16, 1) for b in (2, 16, 64, 256, 4096)]
    assert shared == [16, 2, 1, 1, 1]
    assert lanes(estimate(1.0, 0.9), 4, 0) == 4  # cores are filled by processes of one thread each
    assert lanes(estimate(1.0, 0.9), 8, 4) == 4  # one on each of four GPUs
    two = replace(estimate(1.0), processes=2)
    assert lanes(two, 16, 4) == 2  # two GPUs each
    assert lanes(two, 6, 0) == 3
    assert lanes(two, 2, 8) == 1  # a core for each process
    assert [lanes(estimate(1.0, 1.0), 16, gpus) for gpus in (1, 3, 6)] == [1, 3, 6]  # none stands idle


def test_runs_longer_than_the_limit_share_tasks_too() -> None:
    loads = packed([estimate(24 * 3600.0, 0.2)] * 16, "auto", 8, 1, 4.0)
    assert [(len(load.runs), load.lanes) for load in loads] == [(4, 4)] * 4


def test_devices_are_dealt_out_in_turn() -> None:
    gpus = ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert shared(gpus, 2, 2) == [("cuda:0", "cuda:1"), ("cuda:2", "cuda:3")]
    assert shared(gpus, 5, 1)[3:] == [("cuda:3",), ("cuda:0",)]
    assert devices("auto", 2, 1, 1) == [("auto",), ("auto",)]
    assert devices("auto", 1, 4, 4) == [tuple(gpus)]
    assert devices("cpu", 2, 0, 2) == [("cpu", "cpu")] * 2


def test_a_pace_is_found_in_measurements() -> None:
    truth = Pace(0.003, 0.0002)
    found = PACE.through({b: truth.seconds(b) for b in (2, 16, 256)})
    assert found.step_seconds == pytest.approx(0.003)
    assert found.image_seconds == pytest.approx(0.0002)
    scaled = PACE.through({8: 2 * PACE.seconds(8)})
    assert scaled.seconds(100) == pytest.approx(2 * PACE.seconds(100))
    falling = PACE.through({8: 0.01, 64: 0.001})  # nonsense, as a busy machine measures it
    assert falling.step_seconds > 0
    assert falling.image_seconds > 0


def result(run: Run, seconds: float, steps: int, arrived: bool) -> Result:
    outcome = Reached(steps - 10, steps) if arrived else Censored(steps)
    threshold = min(run.config.target.thresholds)
    times = {"training": seconds, "evaluating": 0.0}
    return Result(run.folder.key, run.seed, {threshold: outcome}, steps, times, {}, {}, "")


def test_estimates_learn_from_what_is_finished(tiny: Callable[..., Config]) -> None:
    small, large = (tiny(f"batch_size={b}", "seeds=2", "target.budget_steps=10000") for b in (8, 64))
    a, b, c, d = runs([small, large])
    unknown = estimates([a, b, c, d], {}, lambda _: PACE)
    assert [one.run for one in unknown][:2] == [c, d]
    assert not any(one.known for one in unknown)
    assert unknown[0].seconds == pytest.approx(5 + 10_000 * PACE.seconds(64))
    done = {a: result(a, 20.0, 2000, True), c: result(c, 50.0, 1000, False)}
    found = {one.run: one for one in estimates([b, d], done, lambda _: PACE)}
    assert found[b].known
    assert found[b].seconds == pytest.approx(5 + 2000 * 0.01)  # its other seed arrived at step 2,000
    assert found[d].seconds == pytest.approx(5 + 10_000 * 0.05)  # none arrived: the whole budget


def test_work_is_counted_in_products_and_convolutions(tiny: Callable[..., Config]) -> None:
    """The DCGAN of the paper, by hand: D on real, on fakes, and again for G; each backward takes twice a pass.

    The first layer of each network and the images have no gradient to be computed, where nobody asks for one.
    """
    found = work(
        tiny("dataset=celeba", "model.width=64", "model.latent=100", "target.samples=10", "target.every_steps=null")
    )
    d = [2 * 32 * 32 * 64 * 48, 2 * 16 * 16 * 128 * 64 * 16, 2 * 8 * 8 * 256 * 128 * 16, 2 * 4 * 4 * 512 * 256 * 16]
    g = [2 * 100 * 8192, *reversed(d[1:]), 2 * 32 * 32 * 64 * 48]
    passes = 3 * sum(d) + sum(g)
    backward = 2 * (2 * sum(d) - d[0]) + (2 * sum(d) - sum(d)) + (2 * sum(g) - g[0])
    assert found.image == pytest.approx(passes + backward, rel=0.02)
    assert found.evaluation == pytest.approx(10 * (sum(g) + 11.4e9), rel=0.01)


def test_inceptions_arithmetic_is_torchvisions() -> None:
    with FakeTensorMode(), _Count() as counted:
        inception_v3(weights=None, aux_logits=False, init_weights=False).eval()(torch.empty(1, 3, 299, 299))
    assert counted.total == pytest.approx(_FEATURES["inception"], rel=0.01)


def test_what_a_run_may_cost_grows_with_its_networks_and_its_evaluations(tiny: Callable[..., Config]) -> None:
    small, large = tiny(), tiny("model.width=32", "model.latent=64", "target.every_steps=10", "target.samples=5000")
    paces = first_paces([small, large], 4.0, 1e-3)
    assert set(paces) == {kind(small), kind(large)}
    assert from_record(json.loads(json.dumps(as_record(paces)))) == paces
    of = known_paces(paces)
    one, other = (estimates(runs([found]), {}, of)[0] for found in (small, large))
    assert of(large).image_seconds > 2 * of(small).image_seconds
    evaluations = large.cadence.count(0, 150)
    assert evaluations == 15
    assert other.seconds == pytest.approx(5 + 150 * of(large).seconds(64) + 15 * of(large).evaluation_seconds)
    assert one.seconds < other.seconds
    assert first_paces([small], 4.0, 2e-3)[kind(small)].image_seconds == pytest.approx(of(small).image_seconds / 2)
