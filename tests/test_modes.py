"""How a generator is evaluated: running statistics, those of the batch, an average along training."""

from __future__ import annotations

import copy

import pytest
import torch

from cbs.key import trial_key
from cbs.models.modes import Average, evaluating, untracked
from cbs.streams import stream
from tests.conftest import config
from tests.test_gan import gan, same


def samples(task, n: int = 33) -> torch.Tensor:
    return torch.cat(list(task.sample(n, stream(0, "evaluation", 1, 0))))


@pytest.mark.parametrize("mode", ["eval", "batch", "ema"])
def test_evaluating_changes_no_training_state(mode: str) -> None:
    watched, plain = (gan(f"target.generator={mode}") for _ in range(2))
    for _ in range(4):
        watched.step()
        plain.step()
        samples(watched)
    assert same(watched, plain)
    assert watched.generator.training


def test_batch_statistics_are_those_of_training() -> None:
    task = gan("target.generator=batch")
    for _ in range(4):
        task.step()
    z = torch.randn(33, 32, generator=stream(0, "evaluation", 1, 0))
    torch.testing.assert_close(samples(task), copy.deepcopy(task.generator)(z).detach())


def test_the_average_is_the_recursion() -> None:
    """θ̄ ← 0.9 θ̄ + 0.1 θ after each step; running statistics too; the network itself up to step 3."""
    task = gan("target.generator=ema", "target.ema_decay=0.9", "target.ema_start_step=4")
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 13):
        task.step()
        for name, value in task.generator.state_dict().items():
            smooth = step >= 4 and value.is_floating_point()
            expected[name] = 0.9 * expected[name] + 0.1 * value if smooth else value.clone()
        if step == 3:
            torch.testing.assert_close(task.average.network.state_dict(), task.generator.state_dict())
    torch.testing.assert_close(task.average.network.state_dict(), expected)
    z = torch.randn(33, 32, generator=stream(0, "evaluation", 1, 0))
    assert torch.equal(samples(task), task.average.network.eval()(z))
    assert not torch.equal(samples(task), samples(gan()))


def test_an_average_resumes_exactly() -> None:
    choice = ("target.generator=ema", "target.ema_decay=0.9", "target.ema_start_step=2")
    whole, half, again = (gan(*choice) for _ in range(3))
    for _ in range(9):
        whole.step()
    for _ in range(4):
        half.step()
    again.load(half.state())
    for _ in range(5):
        again.step()
    assert same(again, whole)


def test_untracked_statistics_stay() -> None:
    norm = torch.nn.BatchNorm2d(3)
    before = copy.deepcopy(norm.state_dict())
    x = torch.randn(4, 3, 2, 2)
    with untracked(norm):
        y = norm(x)
    torch.testing.assert_close(norm.state_dict(), before)
    assert torch.equal(y, copy.deepcopy(norm)(x))


def test_modes_are_left_even_by_an_error() -> None:
    norm = torch.nn.BatchNorm2d(3)
    with pytest.raises(ZeroDivisionError), evaluating(norm, batch_statistics=True):
        raise ZeroDivisionError
    assert norm.training
    assert norm.running_mean is not None


def test_an_average_starts_as_its_network() -> None:
    network, shadow = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    torch.testing.assert_close(Average(shadow, network, 0.9, 0).network.state_dict(), network.state_dict())


def test_the_mode_is_part_of_the_trial_and_its_decay_where_it_counts() -> None:
    def key(*overrides: str) -> str:
        return trial_key(config(*overrides).to_dict(), "none")

    assert key() == key("target.ema_decay=0.5") == key("target.extra=[kid]")
    modes = {key(f"target.generator={mode}") for mode in ("eval", "batch", "ema")}
    assert len(modes | {key("target.generator=ema", "target.ema_decay=0.5")}) == 4
