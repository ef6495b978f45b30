"""Schedules as pure functions: what composes, what is refused, what the size and the rates are, and when."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbs.config import CONF_DIR, typed
from cbs.errors import InputError
from cbs.key import curve_identity, trial_key
from cbs.labels import labels
from cbs.outcome import Evaluation
from cbs.schedule_rules import schedule_of
from cbs.schedules import BatchSizeConfig, Growth, Pace, Phase, Stall, after_stalls, phases, spending, stalls
from cbs.schema import Config
from tests.conftest import config

GIVEN = ("batch_size.initial=16", "batch_size.schedule.at=[10,30]", "batch_size.schedule.factor=2")
STALLING = ("target.every_steps=300", "target.budget_steps=10000", "target.budget_gradients=null")
NAMED = sorted(path.stem for path in (CONF_DIR / "batch_size").glob("*.yaml"))
CIFAR = 50_000


def chosen(name: str, *more: str) -> Config:
    needed = GIVEN if name.startswith("at_") else STALLING if name == "double_on_stall" else ()
    return config(f"batch_size={name}", *needed, *more)


def growth(found: Config) -> Growth:
    assert isinstance(found.batch_size.schedule, Growth)
    return found.batch_size.schedule


def evaluations(*values: float) -> list[Evaluation]:
    return [Evaluation(step, 0, 0.0, value) for step, value in enumerate(values, start=1)]


@pytest.mark.parametrize("name", NAMED)
def test_every_schedule_composes(name: str) -> None:
    found = chosen(name)
    assert found.batch_size.label == name
    assert not found.batch_size.is_constant
    assert typed(found.to_dict()) == found
    assert Config.from_dict(found.to_dict()) == found


@pytest.mark.parametrize(
    ("name", "epochs", "sizes"),
    [
        ("grow_64_at_32_96", [32, 96], [64, 128, 256]),
        ("grow_16_at_16_40_80_128", [16, 40, 80, 128], [16, 32, 64, 128, 256]),
        ("grow_32_at_32_80_160_256", [32, 80, 160, 256], [32, 64, 128, 256, 512]),
        ("grow_64_at_64_160_320_512", [64, 160, 320, 512], [64, 128, 256, 512, 1024]),
    ],
)
def test_the_theses_schedules_are_as_it_has_them(name: str, epochs: list[float], sizes: list[int]) -> None:
    found = chosen(name)
    schedule = growth(found)
    assert (schedule.kind, schedule.at) == ("epochs", epochs)
    assert phases(found.batch_size.initial, schedule) == [Phase(b, 1.0) for b in sizes]
    assert (found.batch_size.smallest, found.batch_size.largest) == (sizes[0], sizes[-1])


def steps_at(schedule: Growth, initial: int, images: int, epochs: float) -> list[tuple[int, Phase]]:
    """Every step's phase, in runs of equal ones, until so many epochs."""
    pace, samples, found = Pace(initial, schedule, images, False, 0), 0, []
    while samples < epochs * images:
        found.append(pace.phase(len(found), samples))
        samples += found[-1].b
    return [(len(list(run)), phase) for phase, run in itertools.groupby(found)]


def test_the_first_study_grew_after_25000_and_50000_steps() -> None:
    """Disbeschl (2022), section 4.1.1, which also has 156,250 steps in all for 640 epochs."""
    runs = steps_at(growth(chosen("grow_64_at_32_96")), 64, CIFAR, 640)
    assert [steps for steps, _ in runs] == [25_000, 25_000, 106_250]
    assert sum(steps for steps, _ in runs) == 156_250


def noise_scale(phase: Phase, lr: float, momentum: float) -> float:
    """g = εN/(B(1 − m)), Smith et al. (2018)."""
    return lr * phase.lr * CIFAR / (phase.b * (1 - momentum))


def test_smiths_three_schedules_have_one_noise_scale() -> None:
    epochs = [0.0, 59.9, 60.0, 119.9, 120.0, 160.0, 199.0]
    scales, updates = [], {}
    for name in ("smith_decay", "smith_grow", "smith_hybrid"):
        schedule = growth(chosen(name))
        pace = Pace(128, schedule, CIFAR, False, 0)
        scales.append([noise_scale(pace.phase(0, math.ceil(e * CIFAR)), 0.1, 0.9) for e in epochs])
        updates[name] = sum(steps for steps, _ in steps_at(schedule, 128, CIFAR, 200))
    first = 0.1 * CIFAR / (128 * 0.1)
    assert scales[0] == pytest.approx([first / 5**k for k in (0, 0, 1, 1, 2, 3, 3)])
    assert scales[1] == pytest.approx(scales[0])
    assert scales[2] == pytest.approx(scales[0])
    assert updates["smith_decay"] == pytest.approx(80_000, rel=0.03)  # as the paper counts
    assert updates["smith_grow"] == pytest.approx(29_000, rel=0.01)
    assert updates["smith_grow"] < updates["smith_hybrid"] < updates["smith_decay"]


@given(
    images=st.integers(2, 2000),
    initial=st.integers(1, 64),
    when=st.lists(st.fractions(min_value="1/50", max_value=3), min_size=1, max_size=4, unique=True),
    data=st.data(),
)
def test_epochs_are_counted_in_samples_whatever_divides(images: int, initial: int, when: list, data: Any) -> None:
    """The first step that begins at or after e·|S| samples has the new size, and none before."""
    at = sorted(float(e) for e in when)
    sizes = data.draw(st.lists(st.integers(1, 64), min_size=len(at), max_size=len(at)))
    pace = Pace(initial, Growth("epochs", at, sizes, [1.0] * len(at)), images, False, 0)
    samples = step = 0
    while samples < 3.1 * images and step < 500:
        b = pace.phase(step, samples).b
        passed = sum(samples / images >= e for e in at)
        assert b == (initial, *sizes)[passed]
        samples, step = samples + b, step + 1


@given(
    kind=st.sampled_from(["steps", "epochs"]),
    initial=st.integers(1, 64),
    sizes=st.lists(st.integers(1, 64), min_size=1, max_size=3),
    images=st.integers(2, 500),
    n=st.integers(1, 3),
)
def test_what_is_spent_is_what_a_run_would_consume(kind: str, initial: int, sizes: list, images: int, n: int) -> None:
    """Against steps taken one by one."""
    at = [float(7 * (i + 1)) if kind == "steps" else 0.3 * (i + 1) for i in range(len(sizes))]
    schedule = Growth(kind, at, sizes, [1.0] * len(at))
    pace, samples = Pace(initial, schedule, images, False, 0), [0]
    for step in range(60):
        samples.append(samples[-1] + n * pace.phase(step, samples[-1]).b)
    spent = spending(BatchSizeConfig("it", initial, schedule), images, n)
    assert [n * spent(step) for step in range(61)] == samples
    later = spending(BatchSizeConfig.constant(sizes[0]), images, n, shared=(5, initial))
    assert [later(step) for step in (0, 5, 9)] == [0, 5 * initial, 5 * initial + 4 * sizes[0]]


@given(at=st.lists(st.integers(1, 300), min_size=1, max_size=5, unique=True), step=st.integers(0, 320))
def test_steps_are_counted_as_they_are(at: list[int], step: int) -> None:
    sizes = list(range(2, len(at) + 2))
    pace = Pace(1, Growth("steps", [float(s) for s in sorted(at)], sizes, [2.0] * len(at)), 7, False, 0)
    passed = sum(step >= s for s in at)
    assert pace.phase(step, 123_456) == Phase(1 + passed, 2.0**passed)


@given(
    values=st.lists(st.floats(0.01, 100), max_size=40),
    evaluations=st.integers(1, 5),
    improvement=st.sampled_from([0.0, 0.02, 0.3]),
    rising=st.booleans(),
)
def test_stalls_are_torchs_plateaus(values: list[float], evaluations: int, improvement: float, rising: bool) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="max" if rising else "min",
        factor=0.5,
        patience=evaluations - 1,
        threshold=improvement,
        threshold_mode="rel",
    )
    for value in values:
        scheduler.step(value)
    signed = [-value if rising else value for value in values]
    expected = -math.log2(optimizer.param_groups[0]["lr"])
    if expected < 20:  # below, torch's eps leaves the rate as it is
        assert stalls(signed, evaluations, improvement) == expected


@given(st.lists(st.floats(0.01, 100), max_size=30), st.integers(1, 4), st.integers(0, 30))
def test_stalls_of_a_trajectory_never_go_back(values: list[float], evaluations: int, cut: int) -> None:
    """What was decided stays decided: a resumed run finds it again."""
    assert stalls(values[:cut], evaluations, 0.1) <= stalls(values, evaluations, 0.1)
    assert stalls(values, evaluations, 0.1, first=cut) <= max(0, len(values) - cut) // evaluations


def test_a_stall_multiplies_up_to_its_limit() -> None:
    schedule = Stall("stall", 2.0, 100, 2, 0.1, "sqrt")
    found = [after_stalls(16, schedule, count) for count in range(5)]
    assert [phase.b for phase in found] == [16, 32, 64, 100, 100]
    assert [phase.lr for phase in found] == pytest.approx([math.sqrt(b / 16) for b in (16, 32, 64, 100, 100)])
    halved = Stall("stall", 2.0, 64, 2, 0.1, 0.5)
    assert [after_stalls(16, halved, count).lr for count in range(4)] == [1, 0.5, 0.25, 0.25]
    pace = Pace(16, schedule, 1000, False, 0)
    assert pace.phase(7, 7).b == 16
    pace.saw(evaluations(5.0, 4.9, 4.8))
    assert pace.phase(7, 7).b == 32
    pace.saw(evaluations(5.0, 4.0, 3.0))
    assert pace.phase(7, 7).b == 16


def test_a_stall_of_a_branch_begins_there() -> None:
    pace = Pace(16, Stall("stall", 2.0, 100, 2, 0.1, "constant"), 1000, False, since=3)
    pace.saw(evaluations(5.0, 5.0, 5.0, 5.0))
    assert pace.phase(4, 4).b == 16
    pace.saw(evaluations(5.0, 5.0, 5.0, 5.0, 4.9))
    assert pace.phase(5, 5).b == 32


@pytest.mark.parametrize(
    ("rule", "rates"),
    [
        ("constant", [1, 1, 1]),
        ("linear", [1, 4, 8]),
        ("sqrt", [1, 2, math.sqrt(8)]),
        ("0.5", [1, 0.5, 0.25]),
        ("[linear,0.2]", [1, 4, 0.8]),
    ],
)
def test_the_rule_of_the_learning_rate(rule: str, rates: list[float]) -> None:
    found = chosen("at_epochs", "batch_size.schedule.factor=[4,2]", f"batch_size.schedule.lr={rule}")
    assert [phase.lr for phase in phases(16, growth(found))] == pytest.approx(rates)


_STALL = {"kind": "stall", "factor": 2, "at_most": 64, "evaluations": 3, "improvement": 0.1, "lr": "constant"}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"kind": "epoch"}, "batch_size.schedule.kind is 'epoch': did you mean epochs?"),
        ({"kind": "constant", "at": [3]}, "batch_size.schedule.at is no setting of kind 'constant'"),
        ({"kind": "steps", "sizes": [3]}, "batch_size.schedule.at has no value here"),
        ({"kind": "steps", "at": [], "sizes": [3]}, "batch_size.schedule.at is empty"),
        ({"kind": "steps", "at": [0], "sizes": [3]}, "batch_size.schedule.at is 0: it must be a whole number above 0"),
        ({"kind": "steps", "at": [2.5], "sizes": [3]}, "batch_size.schedule.at is 2.5: it must be a whole number"),
        ({"kind": "epochs", "at": ["x"], "sizes": [3]}, "batch_size.schedule.at is 'x': it must be a number above 0"),
        ({"kind": "epochs", "at": [3, 2], "sizes": [3, 4]}, "batch_size.schedule.at is [3, 2]: it must rise"),
        ({"kind": "epochs", "at": [3]}, "factor is None, sizes is None: exactly one of them"),
        ({"kind": "epochs", "at": [3], "sizes": [3], "factor": 2}, "factor is 2, sizes is [3]: exactly one of them"),
        ({"kind": "epochs", "at": [3, 4], "sizes": [3]}, "sizes is [3]: it needs 2 values, one for each of at=[3, 4]"),
        ({"kind": "epochs", "at": [3], "sizes": [0]}, "sizes is 0: it must be a whole number above 0"),
        ({"kind": "epochs", "at": [3], "sizes": [True]}, "sizes is True"),
        ({"kind": "epochs", "at": [3], "factor": 1.3}, "factor is 1.3: it makes the batch size 20.8"),
        ({"kind": "epochs", "at": [3], "factor": -1}, "factor is -1: it must be a number above 0"),
        ({"kind": "epochs", "at": [3], "factor": 2, "lr": "root"}, "lr is 'root'"),
        ({"kind": "epochs", "at": [3], "factor": 2, "lr": 0}, "lr is 0: it must be a number above 0"),
        ({"kind": "epochs", "at": [3], "factor": 2, "lr": [1, 1]}, "lr is [1, 1]: it needs 1 value,"),
        ({**_STALL, "at_most": 8}, "at_most is 8: it must be at least batch_size.initial, 16"),
        ({**_STALL, "at_most": None}, "at_most has no value here"),
        ({**_STALL, "factor": 1}, "factor is 1: it must be a number above 1"),
        ({**_STALL, "factor": 1.01}, "factor is 1.01: rounded down, it leaves a batch of 16 as it is"),
        ({**_STALL, "evaluations": 0}, "evaluations is 0: it must be a whole number above 0"),
        ({**_STALL, "improvement": 1}, "improvement is 1: it must be a number, at least 0 and below 1"),
        ({**_STALL, "patience": 1}, "batch_size.schedule.patience is no setting of kind 'stall'"),
    ],
)
def test_bad_values_get_one_sentence(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as refused:
        schedule_of(raw, 16)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_field_without_a_value_is_named() -> None:
    with pytest.raises(InputError, match=r"batch_size\.\w+(\.at)? has no value here|batch_size.initial"):
        config("batch_size=at_steps")


def key(found: Config) -> str:
    return trial_key(found.to_dict(), "digest")


def test_two_ways_of_saying_the_same_are_one_trial() -> None:
    named = chosen("grow_64_at_32_96")
    spelt = config(
        "batch_size=at_epochs",
        "batch_size.initial=64",
        "batch_size.schedule.at=[32,96]",
        "batch_size.schedule.sizes=[128,256]",
    )
    assert key(named) == key(spelt) != key(config("batch_size=64"))
    assert key(chosen("grow_64_at_32_96", "batch_size.schedule.lr=linear")) != key(named)


def test_a_micro_batch_is_whole_only_if_the_largest_batch_is() -> None:
    assert key(chosen("grow_64_at_32_96", "micro_batch=256")) == key(chosen("grow_64_at_32_96"))
    assert key(chosen("grow_64_at_32_96", "micro_batch=128")) != key(chosen("grow_64_at_32_96"))


def test_a_schedule_lies_on_no_curve() -> None:
    curves = [curve_identity(found.to_dict()) for found in (config("batch_size=64"), chosen("grow_64_at_32_96"))]
    assert curves[0] != curves[1]
    assert curves[0] == curve_identity(config("batch_size=128").to_dict())


def test_labels_tell_schedules_of_one_name_apart() -> None:
    several = [chosen("at_epochs"), chosen("at_epochs", "batch_size.schedule.at=[5,30]"), config("batch_size=64")]
    first, second, constant = labels([found.to_dict() for found in several])
    assert (first, second, constant) == ("adam at=[10.0, 30.0]", "adam at=[5.0, 30.0]", "adam")
