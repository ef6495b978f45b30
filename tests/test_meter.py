"""What a target asks of generated images, in one pass: the real side, its cache, and what a run records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cbs import trial
from cbs.data.packed import Packed, prepare
from cbs.data.sampler import Pictures
from cbs.errors import InputError
from cbs.key import trial_folder
from cbs.loggers import said
from cbs.metrics import features, meter, scores, weights
from cbs.metrics.features import Features
from cbs.metrics.frechet import Statistics, frechet_distance
from cbs.metrics.meter import Meter, check_metrics
from cbs.metrics.reference import Reference
from cbs.metrics.rounding import to_bytes
from cbs.outcome import Censored, Evaluation, Reached
from cbs.record import RunFolder
from cbs.schema import Config, DatasetConfig, TargetConfig
from cbs.tasks.gan import GAN
from tests.conftest import config

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
Tiny = Callable[..., Config]
ALL = ["fid", "fid_infinity", "kid", "inception_score"]


@pytest.fixture
def digits(tmp_path: Path) -> Packed:
    return prepare(DatasetConfig("digits", 8, 1, "exact", "all", None, "refuse"), tmp_path)


def target(*overrides: str) -> TargetConfig:
    return config(*overrides).target


def of(packed: Packed, folder: Path, asked: TargetConfig) -> Meter:
    return Meter(asked, packed, features.build(asked.features, folder, 8, 1, CPU), folder, CPU)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=drawn(seed)) * 2 - 1


def test_the_distance_of_the_digits_to_themselves_and_to_noise(digits: Packed, tmp_path: Path) -> None:
    distance = of(digits, tmp_path, target())
    real = torch.from_numpy(digits.images()).float() / 127.5 - 1
    assert distance.value([real], drawn()) == pytest.approx(0, abs=1e-6)
    images = noise(1000)
    far = distance.value([images], drawn())
    assert far > 50
    # The last, partial chunk counts.
    assert distance.value([images[:700], images[700:]], drawn()) == pytest.approx(far, rel=1e-9)


def test_one_pass_gives_what_each_metric_would_alone(digits: Packed, tmp_path: Path) -> None:
    images = noise(600)
    chunks = images.split(250)
    found = of(digits, tmp_path, target(f"target.extra=[{','.join(ALL)}]")).measure(chunks, drawn(1))
    assert list(found.extra) == ALL[1:]

    extractor = features.build("digits", tmp_path, 8, 1, CPU)
    seen = extractor(to_bytes(images, "fixed"))
    real = Reference(ALL, digits, extractor, "fixed", tmp_path, CPU)
    assert found.value == pytest.approx(frechet_distance(Statistics.of(seen), real.statistics), rel=1e-9)
    assert found.extra["fid_infinity"] == pytest.approx(scores.fid_infinity(seen, real.statistics, real.root), rel=1e-9)
    assert found.extra["kid"] == pytest.approx(scores.kid(seen, real.sample, drawn(1)), rel=1e-6)
    assert extractor.logits is not None
    assert found.extra["inception_score"] == pytest.approx(scores.inception_score(seen, extractor.logits), rel=1e-6)

    for metric in ("fid_infinity", "kid"):
        alone = of(digits, tmp_path, target(f"target.metric={metric}"))
        assert alone.measure(chunks, drawn(1)).value == found.extra[metric] == alone.value(chunks, drawn(1))
        assert (alone.measure(chunks, drawn(1)).sampling_error is None) == (metric == "kid")


def test_the_record_of_a_value_does_not_depend_on_what_is_recorded_beside_it(digits: Packed, tmp_path: Path) -> None:
    plain, more = (of(digits, tmp_path, target(f"target.extra=[{extra}]")) for extra in ("", ",".join(ALL)))
    chunks = noise(500).split(200)
    found = plain.measure(chunks, drawn())
    assert found.extra == {}
    assert found.value == more.measure(chunks, drawn()).value == plain.value(chunks, drawn())
    assert found.sampling_error == more.measure(chunks, drawn()).sampling_error


def test_a_generators_sampling_error_is_the_spread_of_its_evaluations(digits: Packed, tmp_path: Path) -> None:
    found = config("batch_size=64", "target.samples=1000")
    task = GAN(found, 0, Pictures(torch.from_numpy(digits.images())), CPU)
    for _ in range(400):
        task.step()
    evaluate = of(digits, tmp_path, found.target)
    values = [evaluate.value(task.sample(1000, drawn(k)), drawn()) for k in range(200)]
    errors = [evaluate.measure(task.sample(1000, drawn(1000 + k)), drawn()).sampling_error for k in range(5)]
    assert np.mean([e for e in errors if e is not None]) == pytest.approx(np.std(values), rel=0.15)


def test_too_many_features_are_kept_in_part(digits: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = of(digits, tmp_path, target("target.samples=6000"))
    images = noise(6000)
    monkeypatch.setattr(meter, "_KEPT_BYTES", 4 * 64 * 2001)
    part = of(digits, tmp_path, target("target.samples=6000"))
    kept = part._pass(images.split(1001), keep=True)[1]
    assert torch.equal(kept, whole._pass(images.split(999), keep=True)[1][::3])
    one, other = (m.measure(images.split(1001), drawn()) for m in (whole, part))
    assert other.value == one.value
    assert other.sampling_error == pytest.approx(one.sampling_error, rel=0.2)
    with pytest.raises(InputError, match=r"target.samples is 6000: with 64 features, metrics other than fid .* 2,001"):
        check_metrics(target("target.samples=6000", "target.extra=[kid]"), 8, 1)


def test_images_that_are_not_finite_have_no_value(digits: Packed, tmp_path: Path) -> None:
    images = noise(300)
    images[7, 0, 3, 3] = math.nan
    for metric in ("fid", "fid_infinity", "kid"):
        asked = of(digits, tmp_path, target(f"target.metric={metric}", "target.extra=[inception_score]"))
        found = asked.measure([images], drawn())
        assert math.isnan(found.value)
        assert (found.sampling_error, found.extra) == (None, {})
        assert math.isnan(asked.value([images], drawn()))


def test_the_real_side_is_cached_by_content_and_made_anew_when_damaged(
    digits: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = target("target.features=pixels", "target.extra=[kid]")
    images = [torch.zeros(70, 1, 8, 8) + torch.arange(70).view(70, 1, 1, 1) / 99]
    first = of(digits, tmp_path, asked).measure(images, drawn())
    kept = sorted((tmp_path / "statistics").glob("*.npz"))
    assert [path.stem.endswith("-sample") for path in kept] == [True, False]
    for path in kept:
        path.write_bytes(path.read_bytes()[:-100])
    assert of(digits, tmp_path, asked).measure(images, drawn()) == first
    monkeypatch.setattr(Reference, "_seen", lambda *_: pytest.fail("not read from the cache"))
    assert of(digits, tmp_path, asked).measure(images, drawn()) == first


def test_kids_real_images_are_a_fixed_part(digits: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two folders, as on two machines; every image in turn where there are fewer than are kept."""
    extractor = features.build("pixels", tmp_path, 8, 1, CPU)
    whole = Reference(["kid"], digits, extractor, "fixed", tmp_path / "whole", CPU).sample
    assert torch.equal(whole, torch.from_numpy(digits.images()).flatten(1).float())
    monkeypatch.setattr("cbs.metrics.reference._SAMPLE", 100)
    parts = [Reference(["kid"], digits, extractor, "fixed", tmp_path / name, CPU).sample for name in ("a", "b")]
    assert torch.equal(*parts)
    assert len(parts[0]) == 100
    assert not torch.equal(parts[0], whole[:100])
    assert not hasattr(Reference(["kid"], digits, extractor, "fixed", tmp_path / "a", CPU), "statistics")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["target.extra=[inception_score]", "target.features=pixels"], "target.features=pixels knows no classes"),
        (
            ["target.metric=inception_score", "target.features=pixels"],
            "target.metric is 'inception_score': .* no classes",
        ),
        (["target.metric=inception_score"], "target.thresholds has 1: an Inception Score is never below 1"),
        (["target.extra=[fid_infinity]", "target.samples=259"], "with 64 features it needs at least 260"),
        (["target.metric=fid_infinity", "target.samples=8000", "target.features=inception"], "at least 8,196"),
        (["target.metric=kid", "target.samples=140000", "target.features=inception"], "can have at most 131,072"),
    ],
)
def test_metrics_that_can_not_be_had_are_refused_before_training(tiny: Tiny, overrides: list[str], words: str) -> None:
    found = tiny(*overrides)
    with pytest.raises(InputError, match=words):
        trial.preflight(found)


def test_features_without_classes_have_no_inception_score(digits: Packed, tmp_path: Path) -> None:
    mute = Features(64, "mute", lambda images: images.flatten(1))
    with pytest.raises(InputError, match=r"inception_score.*knows no classes"):
        Meter(replace(target(), extra=["inception_score"]), digits, mute, tmp_path, CPU)


def test_real_digits_have_the_inception_score_of_its_formula(digits: Packed, tmp_path: Path) -> None:
    """Salimans et al. (2016): exp of the entropy of the mean prediction less the mean entropy, in NumPy."""
    score = of(digits, tmp_path, target("target.metric=inception_score"))
    real = digits.images()
    found = score.measure([torch.from_numpy(real).float() / 127.5 - 1], drawn())
    network = features.DigitNet().double()
    with np.load(weights.DIGITS) as saved:
        network.load_state_dict({name: torch.from_numpy(saved[name]) for name in saved.files})
    with torch.no_grad():
        p = network(torch.from_numpy(real).double()).softmax(1).numpy()

    def entropy(q: np.ndarray) -> np.ndarray:
        return -(q * np.log(q)).sum(-1)

    scores = [np.exp(entropy(part.mean(0)) - entropy(part).mean()) for part in np.array_split(p, 10)]
    assert found.value == pytest.approx(np.mean(scores), rel=1e-4)
    assert found.value == pytest.approx(7.0, abs=0.1)  # 10 would be certainty of ten even classes
    assert (found.sampling_error, found.extra) == (None, {})
    assert score.value([noise(600)], drawn()) < 3


def test_a_target_of_an_inception_score_is_reached_from_below_and_raised(tiny: Tiny) -> None:
    """Several thresholds; then a harder one goes on, and an easier one that was passed trains again, asked for both."""
    choice = ("model.width=8", "batch_size=32", "target.metric=inception_score", "target.extra=[fid]")
    asked = tiny(*choice, "target.samples=300", "target.thresholds=[1.05,1.01,9]", "noise_batches=0")
    outcomes = trial.run(asked, 0).outcomes
    rows = RunFolder(trial_folder(asked), 0).trajectory()
    assert all("fid" in row.extra and row.sampling_error is None for row in rows)
    assert isinstance(outcomes[9.0], Censored)
    reached = outcomes[1.01]
    assert isinstance(reached, Reached)
    crossed = next(row for row in rows if row.step == reached.first_below)
    assert min([crossed.value, *crossed.repeats]) >= 1.01
    assert all(min([row.value, *row.repeats]) < 1.01 for row in rows if row.step < reached.first_below)

    first = tiny(*choice, "target.samples=300", "target.thresholds=[1.01]", "noise_batches=0", "name=again")
    assert trial.run(first, 0).last_step == reached.first_below
    for more in ("[1.01,1.05,9]", "[1.002,9]"):
        again = tiny(*choice, "target.samples=300", f"target.thresholds={more}", "noise_batches=0", "name=again")
        known = trial.run(again, 0).outcomes
    assert set(known) == {1.002, 1.01, 1.05, 9.0}
    assert {t: known[t] for t in outcomes} == outcomes


def test_evaluations_fall_at_epochs_of_the_real_images(tiny: Tiny) -> None:
    choice = ("batch_size=16", "target.every_epochs=0.25", "target.samples=64", "noise_batches=0")
    found = tiny(*choice)
    trial.run(found, 0)
    rows = RunFolder(trial_folder(found), 0).trajectory()
    assert [row.step for row in rows] == [math.ceil(k * 0.25 * 1797 / 16) for k in range(1, 6)]
    assert [row.samples // 449 for row in rows] == [1, 2, 3, 4, 5]
    with pytest.raises(InputError, match=r"dataset.images is 1800: digits has 1797 images here"):
        trial.preflight(tiny(*choice, "dataset.images=1800"))


def test_a_run_records_and_logs_what_was_asked_for(tiny: Tiny) -> None:
    found = tiny("batch_size=16", "target.samples=300", "target.extra=[kid,inception_score]", "target.thresholds=[175]")
    plain = tiny("batch_size=16", "target.samples=300", "target.thresholds=[175]", "name=plain")
    result = trial.run(found, 0)
    assert isinstance(result.outcomes[175.0], Reached)
    trial.run(plain, 0)
    rows: Iterator[list[Evaluation]] = (RunFolder(trial_folder(c), 0).trajectory() for c in (found, plain))
    for more, less in zip(*rows, strict=True):
        assert (more.value, more.repeats, more.sampling_error) == (less.value, less.repeats, less.sampling_error)
        assert more.sampling_error is not None
        assert 0 < more.sampling_error < more.value
        assert list(more.extra) == ["kid", "inception_score"]
        assert less.extra == {}
        first, *repeats = said(more, "fid")
        assert first["fid_sampling_error"] == more.sampling_error
        assert (first["kid"], first["inception_score"]) == tuple(more.extra.values())
        assert [list(piece) for piece in repeats] == [[f"fid_repeat_{k + 1}"] for k in range(len(more.repeats))]
    assert "fid_sampling_error" not in said(Evaluation(1, 1, 0.0, 2.0), "fid")[0]
