"""Update rules on networks: against plain PyTorch and NumPy, and that runs resume, are counted and are refused."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cbs import loop, trial
from cbs.data.sampler import Pictures
from cbs.errors import InputError
from cbs.key import trial_folder, trial_key
from cbs.labels import labels
from cbs.memory import step_bytes
from cbs.options import SVREConfig
from cbs.outcome import Evaluation, sfo
from cbs.record import RunFolder
from cbs.schema import Config
from cbs.stack import stackable
from cbs.streams import stream, stream_seed
from cbs.tasks import replay
from cbs.tasks.draws import Draws
from cbs.tasks.gan import GAN
from cbs.tasks.losses import discriminator_loss, generator_loss, gradient_penalty
from cbs.updates.game import Player, Turn
from cbs.updates.svre import SVRE
from cbs.work import work
from launch.cost import exactly
from tests.conftest import config
from tests.test_arithmetic import without_gpu
from tests.test_gan import same
from tests.test_parallel import assert_close, double

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SGD = ("optimizer=sgd", "optimizer.momentum=0")
RULES = {
    "alternating": ("update=alternating",),
    "simultaneous": ("update=simultaneous",),
    "srfb": ("update=srfb",),
    "srfb, sgd": ("update=srfb", *SGD),
    "extragradient": ("update=extragradient",),
    "extragradient, past": ("update=extragradient", "update.extrapolation=past"),
    "svre": ("update=svre", "update.snapshot_micro_batch=7"),
    "svre, past": ("update=svre", "update.extrapolation=past", "optimizer=adabelief"),
    "svre, sgd": ("update=svre", *SGD),
}
MODELS = {"dcgan": ("model=dcgan",), "wgan_gp": ("model=wgan_gp",), "biggan": ("model=biggan", "model.latent=24")}


def gan(*overrides: str, seed: int = 0) -> GAN:
    found = config("batch_size=6", "model.width=4", *overrides)
    return GAN(found, seed, Pictures(IMAGES, torch.arange(20) % 10, 10), CPU)


class Tiny:
    """A GAN of four numbers: G(z) = a z + m makes numbers, D(x) = w x + c judges them."""

    def __init__(self, real: np.ndarray, b: int, rate: float) -> None:
        self.real, self.b, self.set_size = torch.tensor(real), b, len(real)
        self.chance = np.random.default_rng(1)
        self.used: list[tuple[np.ndarray, np.ndarray]] = []
        build = partial(torch.optim.SGD, lr=rate)
        both = [[torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in row] for row in ((0.3, 0.1), (1, 0))]
        self.players = [Player(name, p, [], partial(build, p)) for name, p in zip(("D", "G"), both, strict=True)]

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        self.used.append((self.chance.integers(self.set_size, size=self.b), self.chance.normal(size=self.b)))
        return self.used[-1]

    def turns(self, draws: tuple[np.ndarray, np.ndarray]) -> Iterator[Turn]:
        rows, noise = draws
        (w, c), (a, m) = (player.parameters for player in self.players)
        z = torch.tensor(noise)
        loss = F.softplus(-(w * self.real[rows] + c)).mean() + F.softplus(w * (a * z + m).detach() + c).mean()
        yield Turn(self.players[0], list(torch.autograd.grad(loss, [w, c])), loss.detach())
        loss = F.softplus(-(w * (a * z + m) + c)).mean()
        yield Turn(self.players[1], list(torch.autograd.grad(loss, [a, m])), loss.detach())

    def whole(self, micro_batch: int | None, count: int) -> Iterator[tuple[float, tuple[np.ndarray, np.ndarray]]]:
        for part in np.split(np.arange(self.set_size), range(self.b, self.set_size, self.b)):
            yield len(part) / self.set_size, (part, np.cos(part + count))


def by_hand(real: np.ndarray, rows: np.ndarray, z: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The gradient of both losses for (w, c, a, m), each for its own pair."""
    w, c, a, m = p
    x, fake = real[rows], a * z + m
    on_real, on_fake = 1 / (1 + np.exp(w * x + c)), 1 / (1 + np.exp(-(w * fake + c)))
    fooled = 1 - on_fake
    of_d = [np.mean(-on_real * x) + np.mean(on_fake * fake), np.mean(-on_real) + np.mean(on_fake)]
    return np.array([*of_d, np.mean(-fooled * w * z), np.mean(-fooled * w)])


@pytest.mark.parametrize("past", [False, True])
def test_svres_first_epochs_are_those_of_numpy(past: bool) -> None:
    """Disbeschl (2022, algorithm 3), step by step; `past` with the direction of the update before in lines 7 and 8."""
    real, rate, factor, seed = np.array([1.5, 2.0, 2.2, 3.0, 2.7]), 0.1, 0.8, 5
    game = Tiny(real, 2, rate)
    rule = SVRE(game.players, past, factor, None, seed)
    p, before, taken = np.array([0.3, 0.1, 1.0, 0.0]), None, 0
    for step in range(25):
        rule.learn(game, rule.draw(game))
        if step == 0 or stream_seed(seed, "snapshot", step) / 2**63 < factor * 2 / 5:
            snapshot, mean = p, np.zeros(4)
            for part in ([0, 1], [2, 3], [4]):
                rows = np.array(part)
                mean = mean + len(part) / 5 * by_hand(real, rows, np.cos(rows + taken), p)
            taken += 1
        *earlier, latest = game.used[-1:] if past else game.used[-2:]

        def reduced(at: np.ndarray, batch: Any, s: np.ndarray = snapshot, mu: np.ndarray = mean) -> np.ndarray:
            return mu + by_hand(real, *batch, at) - by_hand(real, *batch, s)

        look = before if past else reduced(p, earlier[0])
        ahead = p if look is None else p - rate * look
        before = reduced(ahead, latest)
        p = p - rate * before
        found = [float(x) for player in game.players for x in player.parameters]
        np.testing.assert_allclose(found, p, rtol=1e-10)
    assert taken > 3


Networks = tuple[torch.nn.Module, torch.nn.Module]


def plain_gradients(task: GAN, networks: Networks, draws: Draws) -> list[torch.Tensor]:
    """Both gradients of one batch, the discriminator's first, as a script would have them."""
    g, d = networks
    model, first, last = task.model, draws[0][0], draws[-1][0]
    real = first.images
    assert real is not None
    conditional = first.labels is not None
    of = (lambda y: (y,)) if conditional else (lambda y: ())
    fake = g(first.latents, *of(first.fake_labels))
    if conditional:  # in one pass
        both = torch.cat([first.labels, first.fake_labels])
        on_real, on_fake = d(torch.cat([real, fake.detach()]), both).split(len(real))
    else:
        on_real, on_fake = d(real), d(fake.detach())
    loss = discriminator_loss(model.loss, on_real, on_fake)
    if model.penalty:
        loss = loss + model.penalty * gradient_penalty(d, real, fake.detach(), first.mix)
    found = list(torch.autograd.grad(loss, list(d.parameters())))
    if conditional or model.redraw_fakes:
        fake = g(last.latents, *of(last.fake_labels))
    loss = generator_loss(model.loss, d(fake, *of(last.fake_labels)))
    return [*found, *torch.autograd.grad(loss, list(g.parameters()))]


def weights(networks: Networks) -> list[torch.nn.Parameter]:
    return [*networks[1].parameters(), *networks[0].parameters()]


@torch.no_grad()
def moved(networks: Networks, start: list[torch.Tensor], directions: list[torch.Tensor], rate: float) -> Networks:
    """A copy, buffers and all, that stands a step away from `start`."""
    found = copy.deepcopy(networks)
    for p, s, g in zip(weights(found), start, directions, strict=True):
        p.copy_(s - rate * g)
    return found


@pytest.mark.parametrize("model", MODELS)
def test_svre_is_that_of_copied_networks(model: str) -> None:
    """The authors' way, with a copy of the networks for each point: snapshots have buffers of their own, and theirs
    alone are moved by passes over the whole set; with SGD of one rate."""
    choice = (*MODELS[model], *SGD, "update=svre", "update.snapshot_factor=1.5")
    rates = ("optimizer.lr_generator=0.001", "optimizer.lr_discriminator=0.001")
    with double():
        task, plain = gan(*choice, *rates), gan(*choice, *rates)
        networks: Networks = (plain.generator, plain.discriminator)
        taken = 0
        for step in range(6):
            task.step()
            if step == 0 or stream_seed(0, "snapshot", step) / 2**63 < 1.5 * 6 / 20:
                snapshot = copy.deepcopy(networks)
                mean = [torch.zeros_like(p) for p in weights(snapshot)]
                for share, draws in plain.whole(None, taken):
                    for mu, g in zip(mean, plain_gradients(plain, snapshot, draws), strict=True):
                        mu += share * g
                taken += 1
            first, second = plain.draw(), plain.draw()

            def reduced(
                at: Networks, draws: Draws, s: Networks = snapshot, mean: list[torch.Tensor] = mean
            ) -> list[torch.Tensor]:
                now, then = plain_gradients(plain, at, draws), plain_gradients(plain, s, draws)
                return [mu + g - h for mu, g, h in zip(mean, now, then, strict=True)]

            start = [p.detach().clone() for p in weights(networks)]
            ahead = moved(networks, start, reduced(networks, first), 0.001)
            networks = moved(ahead, start, reduced(ahead, second), 0.001)
        assert taken > 1
        assert_close(task.generator.state_dict(), networks[0].state_dict())
        assert_close(task.discriminator.state_dict(), networks[1].state_dict())


def test_srfb_with_adam_is_that_of_plain_torch() -> None:
    with double():
        task, plain = gan("update=srfb"), gan("update=srfb")
        networks: Networks = (plain.generator, plain.discriminator)
        delta, rates = 2 / (1 + math.sqrt(5)), plain.players[0].optimizer.param_groups[0]["lr"]
        assert rates == plain.players[1].optimizer.param_groups[0]["lr"]
        adam = torch.optim.Adam(weights(networks), rates, (0.5, 0.999), fused=False, foreach=False)
        shadow = [p.detach().clone() for p in weights(networks)]
        for _ in range(6):
            task.step()
            gradients = plain_gradients(plain, networks, plain.draw())
            with torch.no_grad():
                for p, s, g in zip(weights(networks), shadow, gradients, strict=True):
                    s.copy_((1 - delta) * p + delta * s)
                    p.copy_(s)
                    p.grad = g
            adam.step()
        assert_close(task.generator.state_dict(), networks[0].state_dict())
        assert_close(task.discriminator.state_dict(), networks[1].state_dict())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_resumes_exactly(rule: str, model: str) -> None:
    choice = (*RULES[rule], *MODELS[model], "target.generator=ema")
    whole, half = gan(*choice), gan(*choice)
    for _ in range(9):
        whole.step()
    for _ in range(4):
        half.step()
    again = gan(*choice)
    again.load(copy.deepcopy(half.state()))
    for _ in range(5):
        again.step()
    assert same(again, whole)
    assert again.gradients == whole.gradients
    assert whole.finite()


@pytest.mark.parametrize("rule", RULES)
def test_a_recorded_step_is_a_plain_one(rule: str) -> None:
    """The host's side of a CUDA graph, snapshots and counts included."""
    choice = tuple(part for part in RULES[rule] if part != "optimizer=adabelief")
    plain, recorded = gan(*choice), gan(*choice)
    recorded._replay = replay.Replay(recorded._learn, recorded._tensors, lambda: recorded.gradients)
    with without_gpu(recorded._replay) as graph:
        for _ in range(24):
            assert [x.item() for x in plain.step()] == [x.item() for x in recorded.step()]
    assert graph.replays == 24 - replay._PLAIN_STEPS
    assert same(plain, recorded)
    assert plain.gradients == recorded.gradients


@pytest.mark.parametrize("rule", RULES)
def test_a_run_that_is_stopped_again_and_again_gives_the_same_record(
    rule: str, tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tiny("batch_size=64", *RULES[rule], "target.budget_steps=30", "noise_batches=0")
    whole = trial.run(found, 0)
    undisturbed = evaluations(found)
    shutil.rmtree(tmp_path / "results")
    monkeypatch.setattr(loop, "LOOK_UP_SECONDS", 0.0)
    count = 0

    def now_and_then() -> bool:
        nonlocal count
        count += 1
        return count % 11 == 0

    interrupted = 0
    while True:
        try:
            result = trial.run(found, 0, stopped=now_and_then)
            break
        except trial.Interrupted:
            interrupted += 1
    assert interrupted == 2
    assert evaluations(found) == undisturbed
    assert result.outcomes == whole.outcomes


def evaluations(found: Config) -> list[tuple]:
    rows = RunFolder(trial_folder(found), 0).trajectory()
    return [(e.step, e.samples, e.value, e.repeats, e.losses, e.gradients) for e in rows]


PER_STEP = {"extragradient": (2, 2), "svre": (4, 2), "svre, sgd": (4, 2), "svre, past": (2, 1)}


@pytest.mark.parametrize("rule", RULES)
def test_every_gradient_counts(rule: str) -> None:
    """b for each that a step evaluates of a network, and the whole set at a snapshot; real images beside them."""
    task = gan(*RULES[rule])
    for _ in range(10):
        task.step()
    evaluated, drawn = PER_STEP.get(rule, (1, 1))
    snapshots = task._rule._snapshots if isinstance(task._rule, SVRE) else 0
    assert snapshots > 1 or "svre" not in rule
    assert dict(task.gradients) == dict.fromkeys(("generator", "discriminator"), 60 * evaluated + 20 * snapshots)
    assert task.samples == 60 * drawn
    # Measuring noise is no training.
    task.fresh_gradients(stream(0, "test"))
    assert task.gradients["generator"] == 60 * evaluated + 20 * snapshots


def test_critic_steps_count_and_an_older_checkpoint_is_counted_afterwards() -> None:
    task = gan("model.critic_steps=3", "target.generator=ema")
    for _ in range(4):
        task.step()
    assert dict(task.gradients) == {"generator": 24, "discriminator": 72}
    older = {name: value for name, value in task.state().items() if name not in ("gradients", "steps", "rule")}
    again = gan("model.critic_steps=3", "target.generator=ema")
    again.load(older)
    assert again.gradients == task.gradients
    assert again.steps == 4
    evaluation = Evaluation(4, task.samples, 1.0, 2.0, gradients=dict(task.gradients))
    assert sfo(evaluation) == 48
    before = evaluation.to_dict()
    assert Evaluation.from_dict(before) == evaluation
    del before["gradients"]
    assert sfo(Evaluation.from_dict(before)) == 72


def test_another_rules_checkpoint_is_a_beginning() -> None:
    """As for a branch that changes the rule: the shadow, and the snapshot, begin where the networks are."""
    parent = gan("update=alternating")
    for _ in range(3):
        parent.step()
    for rule in ("srfb", "svre", "extragradient, past", "alternating"):
        child = gan(*RULES[rule])
        child.step()
        child.load(copy.deepcopy(parent.state()))
        fresh = gan(*RULES[rule])
        fresh.load(copy.deepcopy(parent.state()))
        for _ in range(3):
            child.step()
            fresh.step()
        assert same(child, fresh)


@pytest.mark.parametrize("rule", RULES)
def test_memory_and_arithmetic_are_known_beforehand(rule: str) -> None:
    choice = ("model.width=4", *RULES[rule])
    plain = config("model.width=4")
    same_optimizer = (one for one in RULES[rule] if one.startswith("optimizer"))
    assert step_bytes(config(*choice), 0) >= step_bytes(config("model.width=4", *same_optimizer), 0)
    more = work(config(*choice)).image / work(plain).image
    expected = {"extragradient": 2, "svre": 5, "svre, sgd": 5, "svre, past": 3}.get(rule, 1)
    assert more == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("update=srfb", "update.relaxation=0.61"), "update.relaxation is 0.61: it must be at least 2/(1+√5)"),
        (("update=srfb", "update.relaxation=1.01"), "update.relaxation is 1.01: it must be at least 2/(1+√5)"),
        (("update=srfb", "update.relaxation=nan"), "update.relaxation is nan"),
        (("update=extragradient", "update.extrapolation=pst"), "update.extrapolation is 'pst': did you mean past?"),
        (
            ("update=svre", "update.snapshot_factor=0"),
            "update.snapshot_factor is 0: it must be a finite number above 0",
        ),
        (("update=svre", "update.snapshot_micro_batch=0"), "update.snapshot_micro_batch is 0: it must be at least 1"),
        (
            ("update=svre", "gpus_per_trial=3", "update.snapshot_micro_batch=5"),
            "update.snapshot_micro_batch is 5: it must be at least 6",
        ),
        (("update=simultaneous", "model.critic_steps=5"), "model.critic_steps is 5: with update=simultaneous both"),
        (("update.name=sfrb",), "update.name is 'sfrb': did you mean srfb or svre?"),
        (("update=svre", "+update.relaxation=1"), "update.relaxation is no setting"),
    ],
)
def test_bad_settings_get_one_sentence(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError) as refused:
        config(*overrides)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_relaxations_range_is_closed() -> None:
    assert config("update=srfb").update == config("update=srfb", f"update.relaxation={2 / (1 + math.sqrt(5))!r}").update
    assert config("update=srfb", "update.relaxation=1").update.name == "srfb"


def key(*overrides: str) -> str:
    return trial_key(config(*overrides).to_dict(), "digest")


def test_rules_have_keys_labels_and_paces_of_their_own() -> None:
    choices = [(), *RULES.values(), ("update=srfb", "update.relaxation=0.9"), ("update=svre",)]
    assert len({key(*choice) for choice in choices}) == len(choices) - 1
    assert key() == key("update=alternating")
    found = [config(*choice) for choice in ((), ("update=srfb",), ("update=svre",))]
    assert labels([c.to_dict() for c in found]) == ["adam alternating", "adam srfb", "adam svre"]
    assert len({exactly(c) for c in found}) == 3
    assert [stackable(c) for c in found] == [True, False, False]
    older = found[0].to_dict()
    del older["update"]
    assert Config.from_dict(older) == found[0]
    assert labels([older, found[1].to_dict()]) == ["adam alternating", "adam srfb"]
    again = Config.from_dict(found[2].to_dict())
    assert again == found[2]
    assert isinstance(again.update, SVREConfig)
