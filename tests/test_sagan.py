"""The self-attention pair: table 3.1 of the thesis written out, its attention as a sum, and what training relies on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbs import memory, models, trial
from cbs.data.sampler import Pictures
from cbs.key import trial_folder
from cbs.memory import _Live, step_bytes
from cbs.models import count, spectral
from cbs.models.sagan import Attention, Discriminator, Generator, Head, Stem, attended, initialise
from cbs.outcome import Reached
from cbs.record import RunFolder
from cbs.schema import Config
from cbs.streams import stream
from cbs.tasks import noise
from cbs.tasks.gan import GAN
from cbs.work import work
from tests.conftest import config
from tests.test_gan import gan, same

SIZES = [8, 16, 32, 64, 128, 256]
CPU = torch.device("cpu")


def pair(size: int = 8, width: int = 4, channels: int = 1) -> tuple[Generator, Discriminator]:
    """A small initialised pair whose attention takes part."""
    found = Generator(size, channels, width, 6), Discriminator(size, channels, width)
    for network in found:
        initialise(network, stream(0, type(network).__name__))
        for module in network.modules():
            if isinstance(module, Attention):
                nn.init.constant_(module.gain, 0.7)
    return found


def settled(network: nn.Module) -> nn.Module:
    """In evaluation, its power iterations converged."""
    for module in network.modules():
        if isinstance(module, spectral.Spectral):
            for _ in range(500):
                module.scale()
    return network.eval()


def attention(block: Attention, x: torch.Tensor) -> torch.Tensor:
    """Zhang et al. (2018), eq. 1 to 3, pixel by pixel: β over i of exp(f(xᵢ)·g(xⱼ)), oⱼ = Σ βⱼᵢ h(xᵢ), y = x + γ o."""
    n, c, side, _ = x.shape
    y = x.clone()
    for k in range(n):
        pixels = x[k].reshape(c, -1).t()
        f, g, h = (pixels @ conv.weight[:, :, 0, 0].t() + conv.bias for conv in (block.f, block.g, block.h))
        for j in range(side**2):
            weights = (f @ g[j]).exp()
            y[k, :, j // side, j % side] += block.gain * (weights[:, None] * h).sum(0) / weights.sum()
    return y


def test_the_tables_parameter_counts() -> None:
    """Table 3.1, layer by layer, with SVRE's 128 → 256 at the start; biases where no BatchNorm follows."""
    generator = [
        *(128 * 256 * 16, 2 * 256),
        *(256 * 128 * 16, 2 * 128),
        *(2 * (128 * 16 + 16), 128 * 128 + 128, 1),
        *(128 * 64 * 16, 2 * 64),
        *(2 * (64 * 8 + 8), 64 * 64 + 64, 1),
        64 * 3 * 16 + 3,
    ]
    discriminator = [
        *(3 * 64 * 16 + 64, 64 * 128 * 16 + 128, 128 * 256 * 16 + 256),
        *(2 * (256 * 32 + 32), 256 * 256 + 256, 1),
        256 * 16 + 1,
    ]
    found = config("model=sagan", "dataset=cifar10")
    with torch.device("meta"):
        g, d = models.build(found.model, found.dataset, 10)
    assert (count(g), count(d)) == (sum(generator), sum(discriminator)) == (1_209_461, 745_218)


def test_the_layers_are_the_tables() -> None:
    """32x32: what each layer is, and the feature maps that it makes."""
    with torch.device("meta"):
        g, d = Generator(32, 3, 64, 128), Discriminator(32, 3, 64)
    seen: list[tuple[type, tuple[int, ...]]] = []
    for layer in (*g, *d):
        layer.register_forward_hook(lambda layer, _, out: seen.append((type(layer), tuple(out.shape[1:]))))
    d(g(torch.zeros(1, 128, device="meta")))
    up, norm, relu = spectral.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU
    expected = [(Stem, (256, 4, 4)), (norm, (256, 4, 4)), (relu, (256, 4, 4))]
    expected += [(each, (128, 8, 8)) for each in (up, norm, relu, Attention)]
    expected += [(each, (64, 16, 16)) for each in (up, norm, relu, Attention)]
    expected += [(each, (3, 32, 32)) for each in (nn.ConvTranspose2d, nn.Tanh)]
    for channels, side in ((64, 16), (128, 8), (256, 4)):
        expected += [(each, (channels, side, side)) for each in (spectral.Conv2d, nn.LeakyReLU)]
    assert seen == [*expected, (Attention, (256, 4, 4)), (Head, ())]
    assert {layer.negative_slope for layer in d if isinstance(layer, nn.LeakyReLU)} == {0.1}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(size: int, channels: int) -> None:
    g, d = pair(size, 2, channels)
    images = g(torch.randn(2, 6, generator=stream(0, "z")))
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert d(images).shape == (2,)


def test_where_generators_attend() -> None:
    assert {size: attended(size) for size in SIZES} == {
        8: [4],
        16: [8],
        32: [8, 16],
        64: [16, 32],
        128: [16, 32],
        256: [16, 32],
    }


@pytest.mark.parametrize("size", [8, 32])
def test_networks_are_the_table_written_out(size: int) -> None:
    """Convolutions of torch.nn.functional, divided by the largest singular value of one row per output."""
    g, d = (settled(network.double()) for network in pair(size))

    def divided(layer: nn.Module, outputs: int) -> torch.Tensor:
        return layer.weight / torch.linalg.matrix_norm(layer.weight.movedim(outputs, 0).flatten(1), 2)

    x = torch.randn(2 if size == 8 else 1, 6, 1, 1, dtype=torch.float64, generator=stream(0, "z"))
    for layer in g:
        if isinstance(layer, Stem):
            x = F.conv_transpose2d(x, divided(layer, 1))
        elif isinstance(layer, spectral.ConvTranspose2d):
            x = F.conv_transpose2d(x, divided(layer, 1), stride=2, padding=1)
        elif isinstance(layer, nn.ConvTranspose2d):
            x = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1)
        else:
            x = attention(layer, x) if isinstance(layer, Attention) else layer(x)
    z = torch.randn(len(x), 6, dtype=torch.float64, generator=stream(0, "z"))
    torch.testing.assert_close(g(z), x)
    expected = d(x.clone())
    for layer in d:
        if isinstance(layer, spectral.Conv2d):
            x = F.conv2d(x, divided(layer, 0), layer.bias, stride=2, padding=1)
        elif isinstance(layer, Head):
            x = F.conv2d(x, layer.weight.view(1, *x.shape[1:]), layer.bias).flatten()
        else:
            x = attention(layer, x) if isinstance(layer, Attention) else layer(x)
    torch.testing.assert_close(expected, x)


def test_a_transposed_convolutions_iteration_is_torchs() -> None:
    """torch, too, gives a transposed convolution's matrix one row per output."""
    ours = spectral.ConvTranspose2d(3, 5)
    initialise(ours, stream(0, "weight"))
    theirs = nn.ConvTranspose2d(3, 5, 4, 2, 1, bias=False)
    theirs.load_state_dict({"weight": ours.weight})
    nn.utils.parametrizations.spectral_norm(theirs, n_power_iterations=500)
    theirs(torch.zeros(1, 3, 2, 2))
    x = torch.randn(2, 3, 4, 4, generator=stream(0, "x"))
    torch.testing.assert_close(settled(ours)(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


def test_initialisation_is_torchs_and_depends_on_its_generator_only() -> None:
    g, d = pair(32, 16)
    for module in (*g.modules(), *d.modules()):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            fan, _ = nn.init._calculate_fan_in_and_fan_out(module.weight)
            assert module.weight.abs().max() <= fan**-0.5
            if module.weight.numel() > 500:
                assert module.weight.std().item() == pytest.approx((3 * fan) ** -0.5, rel=0.1)
    torch.manual_seed(99)
    for network, again in zip((g, d), pair(32, 16), strict=True):
        other = again.state_dict()
        assert all(torch.equal(tensor, other[name]) for name, tensor in network.state_dict().items())


def test_evaluation_changes_no_buffer_and_training_every_one() -> None:
    for network, x in zip(pair(), (torch.randn(3, 6), torch.randn(3, 1, 8, 8)), strict=True):
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        network.eval()
        assert torch.equal(network(x.clone()), network(x.clone()))
        assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
        network.train()
        network(x.clone())
        assert not any(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


@pytest.mark.parametrize("size", [8, 32])
def test_every_parameter_has_a_finite_gradient(size: int) -> None:
    """Also of a gradient penalty's kind, which is a gradient's gradient."""
    g, d = (network.double() for network in pair(size))
    images = g(torch.randn(3, 6, dtype=torch.float64, generator=stream(0, "z")))
    (slope,) = torch.autograd.grad(d(images).sum(), images, create_graph=True)
    (slope.square().sum() + d(images).sum()).backward()
    for network in (g, d):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
            if not (network is g and name.endswith("f.bias")):
                assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("overrides", [(), ("micro_batch=4",), ("batch_size=1",), ("precision=bf16",)])
def test_it_trains_measures_its_noise_and_goes_on_from_a_state(overrides: tuple[str, ...]) -> None:
    """Hinge loss on the generator's own fakes, as the plain step of DCGAN (tests/test_gan.py)."""
    task, other = gan("model=sagan", *overrides), gan("model=sagan", *overrides)
    for _ in range(3):
        assert torch.stack(task.step()).isfinite().all()
    before = copy.deepcopy(task.state())
    found = noise.measure(task, 0, 3, 3)
    assert set(found) == {"generator", "discriminator"}
    assert all(of.sigma2 > 0 for of in found.values())
    other.load(before)
    assert same(task, other)  # measuring changed nothing
    losses = [torch.stack(each.step()) for each in (task, other)]
    assert torch.equal(*losses)
    assert same(task, other)


def test_its_step_is_the_plain_one() -> None:
    task, plain = gan("model=sagan"), gan("model=sagan")
    g, d, latent = plain.generator, plain.discriminator, stream(0, "latent")
    optimizers = [torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.9)) for n in (g, d)]
    for _ in range(3):
        losses = task.step()
        real, fake = plain.sampler.draw(6, [slice(6)])[0].images, g(torch.randn(6, 32, generator=latent))
        loss_d = F.relu(1 - d(real)).mean() + F.relu(1 + d(fake.detach())).mean()
        optimizers[1].zero_grad()
        loss_d.backward()
        optimizers[1].step()
        loss_g = -d(fake).mean()
        optimizers[0].zero_grad()
        loss_g.backward()
        optimizers[0].step()
        torch.testing.assert_close(torch.stack(losses), torch.stack([loss_d, loss_g]))


def test_what_a_step_takes_is_known_beforehand() -> None:
    found = config("model=sagan", "dataset=cifar10", "batch_size=4", "model.width=8")
    with _Live() as live:
        task = GAN(found, 0, Pictures(torch.zeros(4, 3, 32, 32, dtype=torch.uint8)), CPU)
        for _ in range(2):
            task.step()
    assert step_bytes(found, 0) == pytest.approx(live.peak, rel=0.03)
    wide = config("model=sagan", "dataset=cifar10", "batch_size=4", "model.width=16")
    assert work(wide).image > 2 * work(found).image > 0
    with mock.patch.object(memory, "LITTLE", 4 * (32**2 * 8 + 8**4 + 16**4) - 1):
        with mock.patch.object(memory, "step_bytes", return_value=0) as asked:
            memory.fitted(found, 0, CPU)
    asked.assert_called_once()  # attention's weights count too


def test_a_run_is_cut_and_goes_on_bit_for_bit(tiny: Callable[..., Config]) -> None:
    choice = (
        "model=sagan",
        "batch_size=8",
        "target.first_gradients=158",
        "target.budget_steps=45",
        "checkpoint_minutes=0",
    )
    found, undisturbed = tiny(*choice), tiny(*choice, "name=other")
    calls = iter([False] * 3 + [True] * 99)
    with mock.patch("cbs.loop.LOOK_UP_SECONDS", 0.0), pytest.raises(trial.Interrupted):
        trial.run(found, 0, stopped=lambda: next(calls))
    rows = []
    for each in (found, undisturbed):
        trial.run(each, 0)
        rows.append([(e.step, e.value, e.losses) for e in RunFolder(trial_folder(each), 0).trajectory()])
    assert rows[0] == rows[1]
    assert len(rows[0]) == 3


@pytest.mark.slow
def test_it_reaches_its_target_on_digits(tiny: Callable[..., Config]) -> None:
    here = tiny().paths
    choice = ("model=sagan", "batch_size=64", "target.thresholds=[12]", "noise_batches=0")
    found = config(*choice, f"paths.results={here.results}", f"paths.data={here.data}")
    assert isinstance(trial.run(found, 0).outcomes[12.0], Reached)
