"""Runs whose batch size changes: killed and resumed on real digits, their learning rates against torch's schedulers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cbs import loop, trial
from cbs.data.sampler import Pictures
from cbs.errors import InputError
from cbs.key import trial_folder
from cbs.machine import onednn
from cbs.outcome import Evaluation
from cbs.record import RunFolder
from cbs.schema import Config
from cbs.stack import stackable
from cbs.tasks.gan import GAN
from cbs.tasks.pacing import trains_through_onednn
from tests.conftest import TINY, config

Tiny = Callable[..., Config]
SIZE = "batch_size.schedule"
FIVE = "batch_size.initial=5"
STEPS = (
    "batch_size=at_steps",
    FIVE,
    f"{SIZE}.at=[25,60]",
    f"{SIZE}.sizes=[12,7]",
    f"{SIZE}.lr=linear",
)
EPOCHS = ("batch_size=at_epochs", FIVE, f"{SIZE}.at=[0.1,0.5]", f"{SIZE}.factor=3", f"{SIZE}.lr=sqrt")
STALL = (
    "batch_size=double_on_stall",
    "target.every_steps=20",
    FIVE,
    f"{SIZE}.evaluations=1",
    f"{SIZE}.improvement=0.5",
    f"{SIZE}.at_most=30",
    f"{SIZE}.lr=0.5",
)
# Small batches convolve without oneDNN, large ones through it.
BOTH = ("model.width=16", "batch_size=at_steps", FIVE, f"{SIZE}.at=[25]", f"{SIZE}.sizes=[40]")


def evaluations(found: Config, seed: int = 0) -> list[tuple]:
    rows = RunFolder(trial_folder(found), seed).trajectory()
    return [(e.step, e.samples, e.value, e.repeats, e.losses) for e in rows]


def interrupted(found: Config, monkeypatch: pytest.MonkeyPatch, every: int = 17) -> int:
    """Run to the end, stopped again and again; how often."""
    monkeypatch.setattr(loop, "LOOK_UP_SECONDS", 0.0)
    looks = attempts = 0

    def stopped() -> bool:
        nonlocal looks
        looks += 1
        return looks % every == 0

    while True:
        try:
            trial.run(found, 0, stopped=stopped)
            return attempts
        except trial.Interrupted:
            attempts += 1


@pytest.mark.parametrize("schedule", [STEPS, EPOCHS, STALL, BOTH], ids=["steps", "epochs", "stall", "both"])
def test_a_run_that_is_stopped_again_and_again_gives_the_same_record(
    schedule: tuple[str, ...], tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("target.first_gradients=100", "target.thresholds=[170,1]", "target.generator=ema", "target.ema_decay=0.9")
    found = tiny(*schedule, *asked)
    whole = trial.run(found, 0)
    undisturbed = evaluations(found)
    samples = [row[1] for row in undisturbed]
    assert samples[0] == 5 * 20  # nothing changes before the first evaluation
    assert samples[-1] > 5 * 150
    shutil.rmtree(tmp_path / "results")
    assert interrupted(found, monkeypatch) > 5
    assert evaluations(found) == undisturbed
    assert RunFolder(trial_folder(found), 0).result() is not None
    assert RunFolder(trial_folder(found), 0).result().outcomes == whole.outcomes  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Tasks that are stepped on their own leave their convolutions' setting behind."""
    with onednn(True):
        yield


def task(*overrides: str) -> GAN:
    images = torch.randint(0, 256, (97, 1, 8, 8), dtype=torch.uint8)
    return GAN(config(*TINY, *overrides), 0, Pictures(images), torch.device("cpu"))


def through_onednn() -> bool:
    now: bool = torch.backends.mkldnn.set_flags(True)[0]
    torch.backends.mkldnn.set_flags(now)
    return now


def test_every_step_convolves_as_those_of_its_size_do() -> None:
    """In a run that was resumed, too."""
    one = task(*BOTH)
    with onednn(trains_through_onednn(config(*TINY, *BOTH), one.b)):
        seen = []
        for _ in range(27):
            seen.append(through_onednn())
            one.step()
    assert seen == [False] * 25 + [True] * 2
    other = task(*BOTH)
    with onednn(False):
        other.load(one.state())
        assert through_onednn()
    assert other.b == 40


def test_epochs_are_counted_in_images_of_this_data_set() -> None:
    one = task(*EPOCHS)
    seen = []
    for _ in range(12):
        before = one.samples
        one.step()
        seen.append((before, one.samples - before))
    for before, b in seen:
        assert b == 5 * 3 ** sum(before / 97 >= at for at in (0.1, 0.5))
    assert {b for _, b in seen} == {5, 15, 45}
    assert one.steps == 12


@pytest.mark.parametrize("optimizer", ["adam", "adabelief", "rmsprop", "sgd"])
def test_learning_rates_are_those_of_torchs_scheduler(optimizer: str) -> None:
    one = task(*STEPS, f"{SIZE}.at=[2,5]", f"{SIZE}.sizes=[6,9]", f"{SIZE}.lr=0.2", f"optimizer={optimizer}")
    rates = [(o.param_groups[0]["lr"], o) for o in (one.optimizer_g, one.optimizer_d)]
    reference = [torch.optim.SGD([torch.zeros(1)], lr=lr) for lr, _ in rates]
    schedulers = [torch.optim.lr_scheduler.MultiStepLR(o, [2, 5], gamma=0.2) for o in reference]
    for _ in range(7):
        for expected, (_, actual) in zip(reference, rates, strict=True):
            assert actual.param_groups[0]["lr"] == pytest.approx(expected.param_groups[0]["lr"])
        one.step()
        for expected, scheduler in zip(reference, schedulers, strict=True):
            expected.step()
            scheduler.step()


def test_a_stall_changes_the_next_step() -> None:
    one = task(*STALL)
    one.step()
    one.saw([Evaluation(1, 5, 0.0, 9.0)])
    assert one.b == 5
    one.saw([Evaluation(1, 5, 0.0, 9.0), Evaluation(2, 10, 0.0, 8.0)])
    assert (one.b, one.optimizer_g.param_groups[0]["lr"]) == (10, pytest.approx(1e-3))
    before = one.samples
    one.step()
    assert one.samples == before + 10


def test_micro_batches_stay_within_their_size() -> None:
    one = task(*STEPS, f"{SIZE}.at=[1,2]", f"{SIZE}.sizes=[12,7]", "micro_batch=6")
    seen = []
    for _ in range(3):
        seen.append((one.b, [part.stop - part.start for part in one._parts]))
        one.step()
    assert seen == [(5, [5]), (12, [6, 6]), (7, [3, 4])]


def test_a_constant_batch_is_left_alone() -> None:
    one = task("batch_size=5")
    one.optimizer_g.param_groups[0]["lr"] = 7.0  # nothing sets it but who built it
    one.saw([Evaluation(1, 5, 0.0, 9.0), Evaluation(2, 10, 0.0, 9.0)])
    one.step()
    assert (one.b, one.optimizer_g.param_groups[0]["lr"]) == (5, 7.0)


def test_the_largest_batch_must_fit_the_data_set(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="batch_size is 3200: digits has 1797 images"):
        trial.preflight(tiny(*STEPS, f"{SIZE}.sizes=[3200,7]"))


def test_seeds_of_a_schedule_train_side_by_side(tiny: Tiny) -> None:
    assert stackable(tiny("batch_size=8", "stack=auto"))
    assert not stackable(tiny(*STEPS, "stack=auto"))
