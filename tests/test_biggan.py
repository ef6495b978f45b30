"""BigGAN: the published counts, its parts against formulae written out, and what training relies on."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cbs import models
from cbs.errors import InputError
from cbs.models import count, spectral
from cbs.models.biggan import (
    Attention,
    ConditionalNorm,
    Discriminator,
    DiscriminatorBlock,
    Generator,
    GeneratorBlock,
    initialise,
    orthogonality,
)
from cbs.rules import latent_chunks
from cbs.streams import stream
from cbs.tasks.losses import gradient_penalty
from tests.conftest import config

SIZES = [8, 16, 32, 64, 128, 256]
# Counts that others publish of copies of the authors' code (1,000 classes, latent 120, shared embedding 128), by size,
# width and attention. Their discriminators have a classifier's 1,000 biases on top of the class vectors.
PUBLISHED = {
    (256, 96, 64): (82_108_548, 99_226_890),
    (128, 96, 64): (70_433_988, 87_983_370),
    (64, 96, 32): (70_377_348, 45_512_970),
    (32, 96, 16): (9_650_436, 10_575_213),
    (256, 64, 64): (37_240_580, 44_446_890),
    (128, 64, 64): (31_978_628, 39_449_258),
    (64, 64, 32): (31_969_540, 20_572_842),
    (32, 64, 16): (4_567_556, 4_789_485),
}


def pair(
    size: int = 8, width: int = 2, attention: int | None = 4, channels: int = 1
) -> tuple[Generator, Discriminator]:
    """A small initialised pair for 10 classes."""
    generator = Generator(size, channels, width, 2 * latent_chunks(size), 10, 3, attention)
    discriminator = Discriminator(size, channels, width, 10, attention)
    for network in (generator, discriminator):
        initialise(network, stream(0, type(network).__name__))
    return generator, discriminator


def moved(network: nn.Module) -> nn.Module:
    """A network whose attention takes part, in double precision."""
    for module in network.modules():
        if isinstance(module, Attention):
            nn.init.constant_(module.gain, 0.7)
    return network.double()


def settled(network: nn.Module, passes: int = 1) -> nn.Module:
    """A network in evaluation whose power iterations have converged: of orthogonal weights one pass finds σ = 1."""
    for module in network.modules():
        if isinstance(module, spectral.Spectral):
            for _ in range(passes):
                module.scale()
    return network.eval()


def images(b: int, size: int = 8, channels: int = 1, **kind: torch.dtype) -> torch.Tensor:
    return torch.randn(b, channels, size, size, generator=stream(0, "images"), **kind)


def latents(generator: Generator, b: int, **kind: torch.dtype) -> torch.Tensor:
    chunks = len(generator.blocks) + 1
    return torch.randn(b, chunks * generator.chunk, generator=stream(0, "latents"), **kind)


def buffers(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_authors_and_the_papers_parameter_counts() -> None:
    """The authors' code, and Sato & Iiduka (ICML 2023)."""
    with torch.device("meta"):
        g, d = Generator(128, 3, 96, 120, 1000, 128, 64), Discriminator(128, 3, 96, 1000, 64)
    assert count(g) == 70_433_988
    assert count(d) == 87_982_370
    gains = {name: p.numel() for n in (g, d) for name, p in n.named_parameters() if name.endswith("gain")}
    assert list(gains.values()) == [1, 1]
    assert count(g) - count(g.norm) - 1 == 70_433_795
    assert count(d) - 1 == 87_982_369


@pytest.mark.parametrize("which", PUBLISHED, ids=str)
def test_counts_at_other_sizes(which: tuple[int, int, int]) -> None:
    size, width, attention = which
    published_g, published_d = PUBLISHED[which]
    with torch.device("meta"):
        g = Generator(size, 3, width, 120, 1000, 128, attention)
        d = Discriminator(size, 3, width, 1000, attention)
        # Their table has 16 for the sides 16, 8, 8 and 8 of the discriminator for 32 pixels: they attend 4 times.
        repeated = 3 * count(Attention(4 * width)) if size == 32 else 0
    assert count(g) == published_g
    assert count(d) + 1000 + repeated == published_d


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(size: int, channels: int) -> None:
    g, d = pair(size, 2, size // 2, channels)
    y = torch.tensor([3, 9])
    found = g(latents(g, 2), y)
    assert found.shape == (2, channels, size, size)
    assert found.abs().max() <= 1
    assert d(found, y).shape == (2,)
    assert len(g.blocks) + 1 == latent_chunks(size)


@pytest.mark.parametrize("size", SIZES)
def test_attention_is_where_it_was_asked_for(size: int) -> None:
    allowed = [size >> halvings for halvings in range(1, latent_chunks(size) - 1)]
    seen: list[int] = []
    for attention in (None, *allowed):
        with torch.device("meta"):
            g, d = (
                Generator(size, 1, 1, latent_chunks(size), 10, 3, attention),
                Discriminator(size, 1, 1, 10, attention),
            )
            for network, x in ((g, torch.zeros(2, latent_chunks(size))), (d, torch.zeros(2, 1, size, size))):
                for module in network.modules():
                    if isinstance(module, Attention):
                        module.register_forward_hook(lambda _, x, __: seen.append(x[0].shape[-1]))
                network(x, torch.zeros(2, dtype=torch.int64))
                assert set(seen) == ({attention} if attention else set())
                seen.clear()


def test_the_class_matters() -> None:
    g, d = pair()
    z, x = latents(g, 1).expand(10, -1), images(1).expand(10, -1, -1, -1)
    y = torch.arange(10)
    assert torch.pdist(g(z, y).flatten(1)).min() > 1e-3
    logits = d(x, y)
    assert torch.pdist(logits[:, None]).min() > 1e-5
    torch.testing.assert_close(d.eval()(x, y.flip(0)), d(x, y).flip(0))


def test_every_chunk_of_the_latent_matters() -> None:
    g, _ = pair(32)
    g.eval()
    z, y = latents(g, 1), torch.tensor([4])
    for chunk in range(4):
        other = z.clone()
        other[:, 2 * chunk] += 1
        assert (g(other, y) - g(z, y)).abs().max() > 1e-4


def test_spectral_norms_are_found_and_divided_by() -> None:
    """torch.linalg.svdvals: after enough passes the largest singular value of every normalised weight is 1."""
    for network in pair():
        for module in network.modules():
            if isinstance(module, spectral.Spectral):
                nn.init.normal_(module.weight, 0, 3, generator=stream(0, "weight"))
                settled(module, passes=500)
                largest = torch.linalg.svdvals(module.weight.flatten(1).double())[0]
                assert module.scale().item() == pytest.approx(1 / largest.item(), rel=1e-4)
                assert torch.linalg.svdvals(module.normalised().flatten(1))[0].item() == pytest.approx(1, rel=1e-4)


def test_spectral_norm_is_torchs_on_the_transposed_weight() -> None:
    """torch's starts from the right vector and ours, the authors', from the left: theirs on Wᵀ is ours on W.

    Three steps of a gradient penalty, which takes a second derivative: σ, u and gradients are the same.
    """
    ours = spectral.Linear(5, 7).double()
    ours.initialise(stream(0, "weight"))
    theirs = copy.deepcopy(nn.Linear(5, 7)).double()
    theirs.load_state_dict({"weight": ours.weight, "bias": ours.bias})
    nn.utils.parametrizations.spectral_norm(theirs, eps=1e-6, dim=1)
    vectors = theirs.parametrizations.weight[0]
    vectors._v.copy_(F.normalize(ours.u, dim=0))
    for _ in range(3):
        found = []
        for layer, weight in ((ours, ours.weight), (theirs, theirs.parametrizations.weight.original)):
            x = images(1, 5, dtype=torch.float64)[0, 0].requires_grad_(True)
            (slope,) = torch.autograd.grad(layer(x).tanh().square().sum(), x, create_graph=True)
            (gradient,) = torch.autograd.grad(slope.square().sum(), weight)
            found.append((slope, gradient))
            with torch.no_grad():
                weight -= 0.1 * gradient
        torch.testing.assert_close(*found)
        torch.testing.assert_close(ours.u, vectors._v)
    assert found[0][1].abs().max() > 1e-3


def test_evaluation_iterates_from_the_vector_it_finds() -> None:
    """The authors' code does so too: weights and vectors may have been averaged."""
    layer = spectral.Linear(6, 4)
    nn.init.normal_(layer.weight, generator=stream(0, "weight"))
    settled(layer, passes=500)
    expected = layer.normalised()
    layer.u.mul_(0.01)
    torch.testing.assert_close(layer.normalised(), expected)


def test_an_embedding_is_that_of_the_normalised_table() -> None:
    layer = spectral.Embedding(10, 4)
    layer.initialise(stream(0, "weight"))
    y = torch.tensor([3, 3, 0])
    torch.testing.assert_close(layer.eval()(y), F.embedding(y, layer.normalised()))


def test_a_conditional_norm_is_its_formula() -> None:
    layer = ConditionalNorm(3, 5).double()
    for name, linear in (("gain", layer.gain), ("bias", layer.bias)):
        linear.initialise(stream(0, name))  # orthogonal: σ is 1
    x = images(4, 6, 3, dtype=torch.float64) * 3 + 1
    condition = torch.randn(4, 5, dtype=torch.float64, generator=stream(0, "condition"))
    running_mean, running_variance = torch.zeros(3).double(), torch.ones(3).double()
    for training in (True, True, False):
        layer.train(training)
        found = layer(x, condition)
        gain, bias = (condition @ linear.weight.t() for linear in (layer.gain, layer.bias))
        mean, variance = running_mean, running_variance
        if training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            running_mean = 0.9 * running_mean + 0.1 * mean
            running_variance = 0.9 * running_variance + 0.1 * x.var((0, 2, 3))
        for b in range(4):
            for c in range(3):
                normed = (x[b, c] - mean[c]) / (variance[c] + 1e-5).sqrt()
                torch.testing.assert_close(found[b, c], normed * (1 + gain[b, c]) + bias[b, c])
    assert layer.gain.bias is None


def test_attention_is_its_formula() -> None:
    channels, side = 16, 4
    layer = moved(Attention(channels))
    initialise(layer, stream(0, "attention"))
    settled(layer)
    x = images(2, side, channels, dtype=torch.float64)
    found = layer(x)
    theta, phi, g, o = (m.normalised()[:, :, 0, 0] for m in (layer.theta, layer.phi, layer.g, layer.o))
    assert theta.shape == (2, channels)
    assert o.shape == (channels, channels // 2)
    for image in range(2):
        places = [(i, j) for i in range(side) for j in range(side)]
        windows = [[(i + k, j + m) for k in (0, 1) for m in (0, 1)] for i in (0, 2) for j in (0, 2)]
        at = {(i, j): x[image, :, i, j] for i, j in places}
        keys = [torch.stack([phi @ at[p] for p in window]).amax(0) for window in windows]
        values = [torch.stack([g @ at[p] for p in window]).amax(0) for window in windows]
        for p in places:
            scores = torch.stack([theta @ at[p] @ key for key in keys])
            weights = scores.exp() / scores.exp().sum()
            read = sum(weight * value for weight, value in zip(weights, values, strict=True))
            torch.testing.assert_close(found[image, :, p[0], p[1]], at[p] + 0.7 * (o @ read))


def test_attention_starts_as_the_identity() -> None:
    layer = Attention(16)
    x = images(2, 4, 16)
    torch.testing.assert_close(layer(x), x)


def convolved(layer: spectral.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, layer.normalised(), layer.bias, padding="same")


def test_a_generators_block_is_the_authors() -> None:
    """Upsampling before the shortcut's convolution, as they write it."""
    block = GeneratorBlock(4, 3, 5, attend=False).double()
    initialise(block, stream(0, "block"))
    settled(block)
    x = images(2, 4, 4, dtype=torch.float64)
    condition = torch.randn(2, 5, dtype=torch.float64, generator=stream(0, "condition"))
    large = nn.UpsamplingNearest2d(scale_factor=2)
    h = convolved(block.conv1, large(block.norm1(x, condition).relu()))
    h = convolved(block.conv2, block.norm2(h, condition).relu())
    torch.testing.assert_close(block(x, condition), h + convolved(block.shortcut, large(x)))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("halve", [True, False])
@pytest.mark.parametrize("outputs", [4, 3])
def test_a_discriminators_block_is_the_authors(first: bool, halve: bool, outputs: int) -> None:
    """The shortcut's convolution before pooling, as they write it of all blocks but the first."""
    block = DiscriminatorBlock(4, outputs, first, halve).double()
    initialise(block, stream(0, "block"))
    settled(block)
    x = images(2, 4, 4, dtype=torch.float64)
    before = x.clone()
    pooled = nn.AvgPool2d(2) if halve else nn.Identity()
    h = pooled(convolved(block.conv2, convolved(block.conv1, x if first else x.relu()).relu()))
    learned = halve or outputs != 4
    shortcut = pooled(convolved(block.shortcut, x) if learned else x)
    torch.testing.assert_close(block(x), h + shortcut)
    assert torch.equal(x, before)
    assert isinstance(block.shortcut, spectral.Conv2d) == learned


def test_a_generator_is_the_authors_sequence() -> None:
    """The first chunk of the latent for the first layer, each other with the class's vector for a block."""
    g, _ = pair(32, 2, 16)
    settled(g)
    z, y = latents(g, 3), torch.tensor([1, 7, 1])
    chunks = [z[:, 2 * i : 2 * i + 2] for i in range(4)]
    h = (chunks[0] @ g.linear.normalised().t() + g.linear.bias).view(3, 8, 4, 4)
    for i in range(3):
        h = g.blocks[i](h, torch.cat([g.embedding.weight[y], chunks[i + 1]], 1))
    expected = convolved(g.conv, g.norm(h).relu()).tanh()
    torch.testing.assert_close(g(z, y), expected)


@pytest.mark.parametrize("size", SIZES)
def test_a_discriminators_blocks_halve_the_side_as_the_authors_do(size: int) -> None:
    """To 4, but for the last block; from 32 pixels to 8 by the first two, and ours below to a quarter likewise."""
    _, d = pair(size, 1, None)
    assert [block.first for block in d.features] == [True] + [False] * (len(d.features) - 1)
    sides, x = [], images(1, size)
    for block in d.features:
        x = block(x)
        sides.append(x.shape[-1])
    expected = {64: [32, 16, 8, 4, 4], 128: [64, 32, 16, 8, 4, 4], 256: [128, 64, 32, 16, 8, 4, 4]}
    assert sides == expected.get(size, [size // 2] + [size // 4] * 3)


def test_the_logit_is_a_projection() -> None:
    """Miyato & Koyama (2018), eq. 3: a linear map of the pooled features, plus their product with a class's vector."""
    _, d = pair()
    settled(d)
    x, y = images(3), torch.tensor([1, 7, 1])
    h = d.features(x).relu().sum((2, 3))
    vectors = d.embedding.normalised()
    expected = [h[i] @ d.linear.normalised()[0] + d.linear.bias[0] + vectors[y[i]] @ h[i] for i in range(3)]
    torch.testing.assert_close(d(x, y), torch.stack(expected))


def test_initialisation_is_orthogonal() -> None:
    for network in pair(32, 4, 16):
        weights = [m.weight for m in network.modules() if isinstance(m, spectral.Spectral | nn.Embedding)]
        for weight in weights:
            torch.testing.assert_close(
                torch.linalg.svdvals(weight.flatten(1)), torch.ones(min(weight.flatten(1).shape))
            )
        for module in network.modules():
            if isinstance(module, spectral.Spectral) and module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                assert module.bias.abs().max() <= bound
                if len(module.bias) >= 16:
                    assert module.bias.std().item() == pytest.approx(bound / 3**0.5, rel=0.5)


def test_initialisation_depends_on_its_generator_only() -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append([network.state_dict() for network in pair()])
    for a, b in zip(*states, strict=True):
        assert same(a, b)
    network, _ = pair()
    other = copy.deepcopy(network)
    models.initialise(other, stream(1, "Generator"))
    changed = {name for name, p in network.state_dict().items() if not torch.equal(p, other.state_dict()[name])}
    kept = set(network.state_dict()) - changed
    assert {name.rsplit(".", 1)[0] for name in kept} <= {
        name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d | Attention)
    }


def test_evaluation_changes_no_buffer_and_training_every_one_in_place() -> None:
    g, d = pair()
    y = torch.tensor([1, 2, 3])
    for network, x in ((g, latents(g, 3)), (d, images(3))):
        before = buffers(network)
        places = [buffer.data_ptr() for buffer in network.buffers()]
        network.eval()
        first, second = network(x, y), network(x, y)
        assert torch.equal(first, second)
        assert same(buffers(network), before)
        network.train()
        network(x, y)
        assert [buffer.data_ptr() for buffer in network.buffers()] == places
        after = buffers(network)
        assert not any(torch.equal(after[name], before[name]) for name in after)


def test_the_same_bits_from_a_kept_state() -> None:
    """Also where the networks were used before, and with the vectors of the power iterations."""
    g, d = pair()
    y = torch.tensor([1, 2, 3])

    def passes() -> list[torch.Tensor]:
        return [network(x, y) for _ in range(3) for network, x in ((g, latents(g, 3)), (d, images(3)))]

    passes()
    kept = io.BytesIO()
    torch.save([g.state_dict(), d.state_dict()], kept)
    expected = passes()
    g, d = (copy.deepcopy(network) for network in (g, d))
    kept.seek(0)
    for network, state in zip((g, d), torch.load(kept), strict=True):
        network.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(passes(), expected, strict=True))


@pytest.mark.parametrize("size", [8, 32])
def test_every_parameter_has_a_gradient(size: int) -> None:
    """But for the biases that BatchNorm takes away again, which the authors' networks have too."""
    g, d = (moved(network) for network in pair(size, 4, size // 2))
    y = torch.arange(10)
    z = latents(g, 10, dtype=torch.float64)
    d(g(z, y), y).sum().backward()
    taken = {f"blocks.{i}.conv1.bias" for i in range(len(g.blocks))}
    last = len(g.blocks) - 1
    taken |= {f"blocks.{last}.conv2.bias", f"blocks.{last}.shortcut.bias"}
    for network in (g, d):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            largest = parameter.grad.abs().max()
            assert largest < 1e-12 if network is g and name in taken else largest > 1e-9, name


@pytest.mark.parametrize("attention", [None, 4])
def test_a_gradient_penalty_reaches_every_parameter(attention: int | None) -> None:
    _, d = pair(attention=attention)
    moved(d)
    real, fake = images(2, 8, dtype=torch.float64), images(4, 8, dtype=torch.float64)[2:]
    y = torch.tensor([3, 5])

    class Conditioned(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return d(x, y)

    penalty = gradient_penalty(Conditioned(), real, fake, torch.full((2, 1, 1, 1), 0.3, dtype=torch.float64))
    penalty.backward()
    for name, parameter in d.named_parameters():
        if not name.endswith("bias"):
            assert parameter.grad.abs().max() > 0, name
            assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_finite_differences(training: bool) -> None:
    y = torch.tensor([3, 5])
    g, d = (settled(moved(network)).train(training) for network in pair(attention=4))
    z = latents(g, 2, dtype=torch.float64).requires_grad_(True)
    x = images(2, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: g(z, y), z, fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: d(x, y), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: d(x, y), x, fast_mode=True)


def test_gradients_for_weights_are_those_of_finite_differences() -> None:
    """Where the power iteration has converged, σ's gradient uvᵀ is exact."""
    layer = spectral.Conv2d(2, 3, 3).double()
    layer.initialise(stream(0, "weight"))
    with torch.no_grad():
        layer.weight *= torch.rand(3, 1, 1, 1, generator=stream(0, "scales")) + 0.5  # apart, so that it converges
    settled(layer, passes=1000)
    x = images(1, 4, 2, dtype=torch.float64)

    def forward(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    assert torch.autograd.gradcheck(forward, (layer.weight, layer.bias))


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 1000))
def test_orthogonality_is_its_formula(rows: int, columns: int, seed: int) -> None:
    layer = spectral.Linear(columns, rows).double()
    nn.init.normal_(layer.weight, generator=stream(seed, "weight"))
    w = layer.weight
    expected = (w @ w.t() * (1 - torch.eye(rows, dtype=w.dtype))).square().sum()
    found = orthogonality(layer)
    torch.testing.assert_close(found, expected)
    # What the authors' code adds to the gradient is half of this one's.
    (gradient,) = torch.autograd.grad(found, w)
    torch.testing.assert_close(gradient / 2, 2 * (w @ w.t() * (1 - torch.eye(rows, dtype=w.dtype))) @ w)


def test_orthogonality_is_of_all_weights_but_the_shared_embedding() -> None:
    g, _ = pair(attention=None)
    gradients = torch.autograd.grad(orthogonality(g), list(g.parameters()), allow_unused=True)
    reached = {name for (name, _), x in zip(g.named_parameters(), gradients, strict=True) if x is not None}
    assert reached == {name for name, p in g.named_parameters() if p.ndim > 1} - {"embedding.weight"}
    assert orthogonality(g.conv).item() == pytest.approx(0, abs=1e-10)


def test_a_pass_reads_no_number_back() -> None:
    """Tensors without data have no numbers to wait for: so a CUDA graph can hold forward and backward passes."""
    with torch.device("meta"):
        g, d = Generator(8, 1, 2, 6, 10, 3, 4), Discriminator(8, 1, 2, 10, 4)
        y = torch.zeros(2, dtype=torch.int64)
        loss = d(g(torch.zeros(2, 6), y), y).sum() + orthogonality(g)
        assert len(torch.autograd.grad(loss, [*g.parameters(), *d.parameters()])) > 50


def test_a_pass_in_bfloat16_keeps_the_power_iteration_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA autocast rounds the products of matrices and vectors; on a CPU it leaves them alone."""
    layer = spectral.Linear(300, 40)
    layer.initialise(stream(0, "weight"))
    expected = copy.deepcopy(layer)(torch.ones(2, 300))
    lowered: list[bool] = []
    scale = spectral.Spectral._scale

    def watched(layer: spectral.Spectral) -> torch.Tensor:
        lowered.append(torch.is_autocast_enabled("cpu"))
        return scale(layer)

    monkeypatch.setattr(spectral.Spectral, "_scale", watched)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(torch.ones(2, 300))
    assert lowered == [False]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


def test_networks_are_copied_in_the_middle_of_training() -> None:
    g, _ = pair()
    z, y = latents(g, 2), torch.tensor([1, 2])
    loss = g(z, y).sum()
    again = copy.deepcopy(g)
    loss.backward()
    assert torch.equal(again(z, y), g(z, y))


def test_configs_build_the_pair_they_name() -> None:
    found = config("model=biggan", "dataset=digits")
    g, d = models.build(found.model, found.dataset, 10)
    assert isinstance(g, Generator)
    assert isinstance(d, Discriminator)
    models.initialise(g, stream(0, "g"))
    y = torch.arange(3)
    assert d(g(torch.randn(3, found.model.latent), y), y).shape == (3,)
    assert g.embedding.num_embeddings == d.embedding.num_embeddings == 10


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("dataset=digits", "model.latent=25"),
            "model.latent is 25: with dataset.image_size=8 it must be a multiple of 3",
        ),
        (
            ("dataset=imagenet", "target.thresholds=[60]", "dataset.image_size=256"),
            "model.latent is 120: with dataset.image_size=256 it must be a m",
        ),
        (("dataset=digits", "model.attention=8"), "model.attention is 8: allowed: 4."),
        (
            ("dataset=imagenet", "target.thresholds=[60]", "model.attention=4"),
            "model.attention is 4: did you mean 64? (allowed: 16, 32, 64, 8)",
        ),
        (("dataset=imagenet", "target.thresholds=[60]", "dataset.image_size=48"), "dataset.image_size is 48"),
    ],
)
def test_what_the_networks_cannot_be_is_refused(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError) as refused:
        config("model=biggan", *overrides)
    assert words in str(refused.value)
