"""How a step is computed: in micro-batches, in bfloat16, as a recording; what it takes of the memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import torch

from cbs import memory, trial
from cbs.data.sampler import Pictures
from cbs.errors import InputError
from cbs.key import trial_key
from cbs.memory import _Live, fitted, free_bytes, step_bytes
from cbs.record import RunFolder
from cbs.schema import Config
from cbs.streams import stream
from cbs.tasks import replay
from cbs.tasks.gan import GAN
from tests.conftest import config
from tests.test_gan import IMAGES, flat, gan, same
from tests.test_parallel import Bare, double

CPU = torch.device("cpu")


@pytest.mark.parametrize("model", ["dcgan", "wgan_gp"])
@pytest.mark.parametrize("micro_batch", [1, 2, 4, 6, 7])
def test_micro_batches_add_up_to_the_gradient_of_the_batch(model: str, micro_batch: int) -> None:
    choice = (f"model={model}", "model.discriminator_norm=none", "batch_size=7", "optimizer=sgd")
    with double(), mock.patch("cbs.models.dcgan.Generator", Bare):
        whole, cut = gan(*choice), gan(*choice, f"micro_batch={micro_batch}")
        for _ in range(20):
            torch.testing.assert_close(torch.stack(whole.step()), torch.stack(cut.step()), rtol=1e-9, atol=1e-9)
        for ours, theirs in zip(cut.players, whole.players, strict=True):
            torch.testing.assert_close(ours.parameters, theirs.parameters, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("model", "passes"), [("dcgan", 1), ("wgan_gp", 2)])
def test_each_micro_batch_moves_running_statistics_as_a_batch_would(model: str, passes: int) -> None:
    """Once where the generator's update re-uses the critic's fakes, though they are made twice then."""
    for micro_batch, parts in ((None, 1), (2, 3)):
        task = gan(f"model={model}", f"micro_batch={'null' if micro_batch is None else micro_batch}")
        for _ in range(5):
            task.step()
        layers = [m for m in task.generator.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert {int(layer.num_batches_tracked) for layer in layers} == {5 * parts * passes}


def test_micro_batches_shape_a_trajectory_and_enter_its_key() -> None:
    def key(*overrides: str) -> str:
        return trial_key(config("batch_size=8", *overrides).to_dict(), "none")

    assert key() == key("micro_batch=8") == key("micro_batch=9")
    assert len({key(), key("micro_batch=4"), key("micro_batch=2"), key("micro_batch=auto")}) == 4
    assert len({key(), key("precision=bf16"), key("precision=tf32")}) == 3


def test_a_micro_batch_gives_each_gpu_an_image() -> None:
    with pytest.raises(InputError, match="micro_batch is 2: with gpus_per_trial=3 it must be at least 3"):
        config("gpus_per_trial=3", "micro_batch=2")


@pytest.mark.parametrize("model", ["dcgan", "wgan_gp"])
def test_bfloat16_is_for_products_only(model: str) -> None:
    exact, rounded = gan(f"model={model}"), gan(f"model={model}", "precision=bf16")
    for _ in range(20):
        of_exact, of_rounded = torch.stack(exact.step()), torch.stack(rounded.step())
    assert of_rounded.dtype == torch.float32
    assert all(tensor.dtype != torch.bfloat16 for tensor in flat(rounded.state()))
    assert not torch.equal(of_exact, of_rounded)
    torch.testing.assert_close(of_exact, of_rounded, rtol=0.1, atol=0.1)


def test_only_gpus_have_tf32(tiny: Callable[..., Config]) -> None:
    with pytest.raises(InputError, match="precision is 'tf32', which only GPUs have"):
        trial.preflight(tiny("precision=tf32", "device=cpu"))


class FakeGraph:
    """What a CUDA graph does, done by the host: replaying writes into the tensors it was recorded on."""

    def __init__(self, recorded: replay.Replay) -> None:
        self.recorded, self.replays = recorded, 0

    def replay(self) -> None:
        self.replays += 1
        counted = self.recorded._counted().copy()
        for kept, fresh in zip(self.recorded._losses, self.recorded._learn(self.draws), strict=True):
            kept.copy_(fresh)
        self.recorded._counted().subtract(self.recorded._counted() - counted)  # a graph counts nothing


@contextlib.contextmanager
def without_gpu(recorded: replay.Replay) -> Iterator[FakeGraph]:
    graph = FakeGraph(recorded)
    kept_apart = replay.kept_apart

    def remembered(draws: Any) -> Any:
        graph.draws, inputs = kept_apart(draws)
        return graph.draws, inputs

    stream_like = mock.MagicMock()
    with (
        mock.patch.object(replay, "kept_apart", remembered),
        mock.patch("torch.cuda.Stream", stream_like),
        mock.patch("torch.cuda.current_stream", stream_like),
        mock.patch("torch.cuda.stream", return_value=contextlib.nullcontext()),
        mock.patch("torch.cuda.graph", return_value=contextlib.nullcontext()),
        mock.patch("torch.cuda.CUDAGraph", return_value=graph),
    ):
        yield graph


@pytest.mark.parametrize("model", ["dcgan", "wgan_gp"])
@pytest.mark.parametrize("optimizer", ["adam", "adabelief", "rmsprop", "sgd"])
def test_recording_a_step_leaves_the_trajectory_as_it_was(model: str, optimizer: str) -> None:
    """The host's side of it: warming up is undone, and every draw reaches the recording."""
    choice = (f"model={model}", f"optimizer={optimizer}", "model.critic_steps=2")
    plain, recorded = gan(*choice), gan(*choice)
    for task in (plain, recorded):
        for each in (task.optimizer_g, task.optimizer_d):
            if optimizer == "adabelief":
                each._capturable = True
    recorded._replay = replay.Replay(recorded._learn, recorded._tensors, lambda: recorded.gradients)
    with without_gpu(recorded._replay) as graph:
        for _ in range(30):
            assert [x.item() for x in plain.step()] == [x.item() for x in recorded.step()]
    assert graph.replays == 30 - replay._PLAIN_STEPS
    assert same(plain, recorded)


def test_what_a_recording_is_fed_keeps_its_structure() -> None:
    task = gan("model=dcgan")
    draws = [task.draw()]
    copies, inputs = replay.kept_apart(draws)
    assert draws[0][0] is draws[0][1]
    assert copies[0][0][0].latents is copies[0][1][0].latents
    assert len(inputs) == 2
    assert [t.data_ptr() for t in inputs] != [t.data_ptr() for t in replay.tensors(draws)]
    assert all(torch.equal(a, b) for a, b in zip(inputs, replay.tensors(copies), strict=True))


@pytest.mark.parametrize("choice", [("model=dcgan",), ("model=wgan_gp", "optimizer=adabelief", "micro_batch=5")])
def test_the_estimate_is_what_a_step_takes(choice: tuple[str, ...]) -> None:
    """The tensors of a real step, counted one by one."""
    found = config("batch_size=16", "dataset=cifar10", "model.width=8", *choice)
    with _Live() as live:
        images = torch.zeros(16, 3, 32, 32, dtype=torch.uint8)
        task = GAN(found, 0, Pictures(images), CPU)
        for _ in range(2):
            task.step()
    assert step_bytes(found, 0) == pytest.approx(live.peak, rel=0.03)


def test_a_batch_that_does_not_fit_is_refused_or_cut() -> None:
    large = config("dataset=celeba", "batch_size=64")
    need = step_bytes(large, 0)
    little = mock.patch.object(memory, "LITTLE", 0)
    with little, mock.patch.object(memory, "free_bytes", return_value=int(0.8 * need)):
        with pytest.raises(InputError) as refused:
            fitted(large, 0, CPU)
        assert "batch_size is 64, for which cpu has no room (a step takes 0.3 GiB, 0.2 " in str(refused.value)
        assert "micro_batch=auto" in str(refused.value)
        assert fitted(replace(large, micro_batch="auto"), 0, CPU).micro_batch in (8, 16, 32)
        assert fitted(replace(large, micro_batch=8), 0, CPU).micro_batch == 8
    with little, mock.patch.object(memory, "free_bytes", return_value=int(0.6 * need)):
        with pytest.raises(InputError, match="micro_batch is 64, for which"):
            fitted(config("dataset=celeba", "batch_size=128", "micro_batch=64"), 0, CPU)
    assert fitted(replace(large, micro_batch="auto"), 0, CPU).micro_batch is None


def test_what_can_not_be_cut_further_is_said() -> None:
    with mock.patch.object(memory, "free_bytes", return_value=2**20), mock.patch.object(memory, "LITTLE", 0):
        with pytest.raises(InputError, match=r"micro_batch is 1, .* give a smaller model"):
            fitted(config("dataset=celeba", "batch_size=3", "micro_batch=auto"), 0, CPU)


def test_what_is_free_is_within_the_machine() -> None:
    assert 0 < free_bytes(CPU) <= psutil.virtual_memory().total


def test_a_run_keeps_the_micro_batch_it_began_with(tiny: Callable[..., Config]) -> None:
    """Another machine might have settled on another one, and the trajectory would bend there."""
    found = tiny("batch_size=8", "micro_batch=auto", "target.thresholds=[1e-3]", "checkpoint_minutes=0")
    halved = mock.patch.object(memory, "fitted", lambda found, *_: replace(found, micro_batch=4))
    calls = iter([False] * 3 + [True] * 99)
    with halved, mock.patch("cbs.loop.LOOK_UP_SECONDS", 0.0), pytest.raises(trial.Interrupted):
        trial.run(found, 0, stopped=lambda: next(calls))
    result = trial.run(found, 0)
    assert result.micro_batch == 4
    assert result.peak_memory_bytes > 2**20
    folder = next(Path(found.study_dir).glob("trials/*"))
    undisturbed = tiny("batch_size=8", "micro_batch=4", "target.thresholds=[1e-3]", "name=other")
    trial.run(undisturbed, 0)
    other = next(Path(undisturbed.study_dir).glob("trials/*"))
    values = [[e.value for e in RunFolder(path, 0).trajectory()] for path in (folder, other)]
    assert values[0] == values[1]


def test_evaluations_see_whole_floats() -> None:
    """A generator trained in bfloat16 is measured in float32."""
    task = gan("precision=bf16")
    task.step()
    (images,) = task.sample(8, stream(0, "evaluation", 1, 0))
    task.generator.eval()
    z = torch.randn(8, 32, generator=stream(0, "evaluation", 1, 0))
    assert torch.equal(images, task.generator(z))
    assert IMAGES.dtype == torch.uint8
