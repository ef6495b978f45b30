"""What composes, what is refused, and what a key depends on."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cbs.config import CONF_DIR, typed
from cbs.errors import InputError
from cbs.key import trial_key
from cbs.labels import labels
from cbs.options import RMSPropConfig
from tests.conftest import composed, config


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF_DIR / group).glob("*.yaml"))


@pytest.mark.parametrize("model", options("model"))
@pytest.mark.parametrize("optimizer", options("optimizer"))
@pytest.mark.parametrize("dataset", options("dataset"))
def test_every_choice_composes(model: str, optimizer: str, dataset: str) -> None:
    given = {"folder": ["dataset.source=/images"], "imagenet": ["target.thresholds=[60]"]}.get(dataset, [])
    if model == "biggan" and dataset in ("celeba", "lsun_bedroom"):
        with pytest.raises(InputError, match=f"{dataset} has none"):
            config(f"model={model}", f"optimizer={optimizer}", f"dataset={dataset}")
        return
    found = config(f"model={model}", f"optimizer={optimizer}", f"dataset={dataset}", *given)
    assert (found.model.name, found.optimizer.name, found.dataset.name) == (model, optimizer, dataset)


@pytest.mark.parametrize("target", options("target"))
def test_every_target_composes(target: str) -> None:
    if target in ("fid", "imagenet"):  # the paper's threshold is not in our sources
        with pytest.raises(InputError, match=r"target.thresholds has no value here: give one"):
            config(f"target={target}")
    assert config(f"target={target}", "target.thresholds=[60]").target.thresholds == [60.0]


@pytest.mark.parametrize("logger", options("logger"))
def test_every_logger_composes(logger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert config(f"logger={logger}").logger.name == logger


@pytest.mark.parametrize("study", options("study"))
def test_every_study_composes(study: str) -> None:
    given = ["target.thresholds=[60]"] if study == "paper_biggan_imagenet" else []
    assert config(f"study={study}", *given).name == study


def test_the_papers_settings_are_the_defaults() -> None:
    """Table 2 and the published scripts, as the authors have them."""
    lsun = config("dataset=lsun_bedroom")
    assert (lsun.model.width, lsun.model.latent, lsun.dataset.image_size) == (64, 100, 64)
    assert (lsun.optimizer.lr_discriminator, lsun.optimizer.lr_generator) == (3e-4, 1e-4)
    assert (lsun.target.thresholds, lsun.target.samples) == ([70.0], 49_984)
    for study in ("paper_dcgan_lsun", "paper_wgan_gp_celeba", "paper_biggan_imagenet"):
        target = config(f"study={study}", "target.thresholds=[50]").target
        assert (target.every_steps, target.budget_steps, target.budget_gradients) == (10_000, 1_000_000, None)
        assert target.evaluations_after == 0
    belief = config("dataset=lsun_bedroom", "optimizer=adabelief").optimizer
    assert (belief.lr_discriminator, belief.lr_generator) == (3e-5, 3e-4)
    celeba = config("dataset=celeba", "model=wgan_gp", "optimizer=rmsprop")
    assert isinstance(celeba.optimizer, RMSPropConfig)
    assert (celeba.optimizer.lr_discriminator, celeba.optimizer.lr_generator) == (1e-4, 3e-4)
    assert (celeba.optimizer.alpha, celeba.optimizer.eps) == (0.99, 1e-8)
    assert (celeba.model.critic_steps, celeba.model.penalty, celeba.target.thresholds) == (1, 10.0, [50.0])


@pytest.mark.parametrize("b", ["48", "64", "1", "100000"])
def test_any_whole_number_is_a_batch_size(b: str) -> None:
    node = composed(f"batch_size={b}").batch_size
    assert OmegaConf.to_container(node) == {"label": b, "initial": int(b), "schedule": {"kind": "constant"}}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("target.thresholds=[0]", "target.thresholds is 0: it must be a finite number above 0"),
        ("target.thresholds=[-3,50]", "target.thresholds is -3"),
        ("target.thresholds=[]", "target.thresholds is empty"),
        ("target.budget_steps=10", "target.budget_steps is 10: it must be at least 32, to reach the first evaluation"),
        (
            "target.budget_gradients=2047",
            "target.budget_gradients is 2047: it must be at least 2048, to reach the first evaluation, at step 32.",
        ),
        ("target.budget_gradients=0", "target.budget_gradients is 0: it must be at least 1"),
        ("target.budget_gradients=null", "target.budget_gradients and target.budget_steps are null: at least one must"),
        ("target.first_gradients=0", "target.first_gradients is 0: it must be at least 1"),
        ("target.evaluations_after=-1", "target.evaluations_after is -1: it must be at least 0"),
        ("+target.first_steps=300", "target.first_steps is no setting: did you mean"),
        ("target.every_steps=20000", "must be at least 1280000, to reach the first evaluation, at step 20000"),
        ("target.precision=0", "target.precision is 0"),
        ("seeds=0", "seeds is 0: it must be at least 1"),
        ("seeds=1.5", "seeds: Value '1.5'"),
        ("optimizer.lr_generator=-1", "optimizer.lr_generator is -1"),
        ("optimizer.lr_generator=nan", "optimizer.lr_generator is nan"),
        ("optimizer.beta1=1", "optimizer.beta1 is 1: it must be at least 0 and below 1"),
        ("optimizer.name=adamw", "optimizer.name is 'adamw': did you mean adam"),
        ("model.loss=hinges", "did you mean hinge?"),
        ("dataset.image_size=48", "dataset.image_size is 48"),
        ("device=gpu", "device is 'gpu'"),
        ("name=a/b", "name is 'a/b'"),
        ("logger.name=tensorbord", "logger.name is 'tensorbord': did you mean tensorboard"),
        ("gpus_per_trial=0", "gpus_per_trial is 0: it must be at least 1"),
        ("gpus_per_trial=65", "batch_size is 64: with gpus_per_trial=65 it must be at least 65"),
        ("model.batch_norm=local", "model.batch_norm is 'local': did you mean global or replica?"),
        ("+model.depth=3", "model.depth is no setting"),
        ("+extra=3", "extra is no setting"),
        ("dataset=folder", "dataset.source"),
    ],
)
def test_bad_values_get_one_sentence(override: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        config(override)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("grant", [31, 3907])
def test_a_grant_lies_between_the_first_evaluation_and_the_budget(grant: int) -> None:
    with pytest.raises(InputError, match=rf"target.grant_steps is {grant}: .* step 32, to the budget, 3906 steps"):
        config(f"target.grant_steps={grant}")


def test_adabelief_needs_an_average_to_differ_from() -> None:
    with pytest.raises(InputError, match=r"optimizer.beta1 is 0: AdaBelief divides by how far gradients are"):
        config("optimizer=adabelief", "optimizer.beta1=0")
    given = ("model=biggan", "dataset=cifar10")
    assert [config(*given, f"optimizer={name}").optimizer.beta1 for name in ("adam", "adabelief")] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["logger=wandb", "logger.mode=ofline"], "logger.mode is 'ofline': did you mean offline"),
        (["logger=wandb", "logger.project=' '"], "logger.project is empty"),
        (["logger=mlflow", "logger.experiment=''"], "logger.experiment is empty"),
        (["logger=mlflow", "+logger.run=a"], "logger.run is no setting"),
    ],
)
def test_bad_settings_of_a_logger_get_one_sentence(overrides: list[str], words: str) -> None:
    with pytest.raises(InputError) as refused:
        config(*overrides)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def key(*overrides: str) -> str:
    return trial_key(config(*overrides).to_dict(), "digest")


@pytest.mark.parametrize(
    "override",
    [
        "seeds=7",
        "name=other",
        "device=cpu",
        "paths.results=/elsewhere",
        "paths.data=/elsewhere",
        "target.thresholds=[60,50]",
        "target.budget_steps=999999",
        "target.budget_gradients=999999",
        "target.evaluations_after=7",
        "target.grant_steps=300",
        "checkpoint_minutes=9",
        "gpus_per_trial=2",
        "model.batch_norm=replica",
        "optimizer.lr_generator=0.0002",
        "dataset.source=/elsewhere",
        "logger=tensorboard",
        "logger=wandb",
        "logger=mlflow",
    ],
)
def test_a_key_ignores_what_changes_no_trajectory(override: str) -> None:
    assert key(override) == key()


@pytest.mark.parametrize(
    "override",
    [
        "batch_size=63",
        "optimizer=adabelief",
        "optimizer.lr_generator=3e-3",
        "optimizer.beta1=0.4",
        "model.width=17",
        "model.loss=hinge",
        "target.samples=1001",
        "target.precision=0.06",
        "target.every_steps=500",
        "target.confirmations=0",
        "target.normalisation=per_image",
        "target.features=pixels",
    ],
)
def test_a_key_depends_on_what_changes_a_trajectory(override: str) -> None:
    assert key(override) != key()


def test_keys_stay_what_they_are_in_records() -> None:
    """Known digests: a field added to the config must leave the keys of trials that don't use it as they are."""
    assert key() == "62276804a259"
    assert key("dataset=lsun_bedroom", "batch_size=256") == "e9306899a664"
    assert key("dataset=lsun_bedroom", "batch_size=256", "target.every_steps=10000") == "edc897c39145"
    assert key("model=wgan_gp", "optimizer=rmsprop") == "2f7a36988242"


def test_a_key_depends_on_the_replicas_that_normalise_apart() -> None:
    keys = {key("model.batch_norm=replica", f"gpus_per_trial={n}") for n in (1, 2, 4)}
    assert len(keys) == 3
    assert key() in keys


def test_a_single_gpu_of_several_can_not_be_named() -> None:
    with pytest.raises(InputError, match="device is 'cuda:1': with gpus_per_trial=2"):
        config("gpus_per_trial=2", "device=cuda:1")


def test_a_key_depends_on_the_feature_weights() -> None:
    assert trial_key(config().to_dict(), "a") != trial_key(config().to_dict(), "b")


def test_a_key_is_the_same_after_a_round_trip() -> None:
    found = config("optimizer=sgd")
    again = typed(found.to_dict())
    assert again == found
    assert trial_key(again.to_dict(), "d") == trial_key(found.to_dict(), "d")


def test_labels_name_what_tells_trials_apart() -> None:
    def named(*choices: tuple[str, ...]) -> list[str]:
        return labels([config(*choice).to_dict() for choice in choices])

    assert named(("batch_size=4",), ("batch_size=8", "seeds=3", "target.budget_steps=999")) == ["adam", "adam"]
    assert named(("optimizer=adam",), ("optimizer=sgd",)) == ["adam", "sgd"]
    rates = named(("optimizer.lr_generator=1e-4",), ("optimizer.lr_generator=2e-4",), ("optimizer=sgd",))
    assert rates == ["adam lr_generator=0.0001", "adam lr_generator=0.0002", "sgd"]
    assert named(("model=dcgan",), ("model=wgan_gp",)) == ["adam dcgan", "adam wgan_gp"]
    three = named(("model=dcgan",), ("model.width=32",), ("model=wgan_gp",))
    assert three == ["adam dcgan width=16", "adam dcgan width=32", "adam wgan_gp"]


def test_conf_holds_yaml_only() -> None:
    assert {p.suffix for p in Path(CONF_DIR).rglob("*") if p.is_file()} == {".yaml"}


def test_epochs_enter_a_key_only_where_they_are_counted() -> None:
    assert key() == key("dataset.images=5") == key("dataset.images=null")
    by_epochs = ("target.every_epochs=2", "dataset.images=1797")
    assert key(*by_epochs) == key(*by_epochs, "target.first_gradients=7", "target.precision=0.3")
    assert key("target.every_steps=57") == key("target.every_steps=57", "target.first_gradients=7")
    others = [(), ("target.every_epochs=3",), (by_epochs[0], "dataset.images=5"), ("target.every_steps=57",)]
    assert len({key(*by_epochs), *(key(*other) for other in others), key("target.first_gradients=7")}) == 6
    growing = ("batch_size=grow_64_at_32_96", "dataset.images=5")
    assert key(*growing) != key(growing[0])
    steps = ("target.every_steps=57", "target.budget_steps=9999")
    assert key(*growing, *steps) == key(growing[0], *steps)
    assert config(*by_epochs, "batch_size=64", "model.critic_steps=2").cadence.following(0) == 29  # 3,594 / 128
    assert config(*by_epochs, "batch_size=64", "update=svre").cadence.following(0) == 29  # two batches a step


def test_epochs_are_as_long_as_batches_make_them() -> None:
    """Every 6.4 epochs of 50,000 images: 5,000 steps of 64, 2,500 of 128, 1,250 of 256."""

    def evaluations(*overrides: str) -> list[int]:
        cadence = config("study=thesis_growing_batch", *overrides).cadence
        return [step := 0, *(step := cadence.following(step) for _ in range(18))][1:]

    growing = evaluations("batch_size=grow_64_at_32_96")
    # 64 up to epoch 32, where 25,000 steps are done; then 128 up to epoch 96, 25,000 more; then 256.
    assert growing == [*range(5000, 25_001, 5000), *range(27_500, 50_001, 2500), *range(51_250, 53_751, 1250)]
    shared = evaluations("batch_size=256", "branch_from.batch_size=64", "branch_from.epochs=6.4")
    assert shared == [5000, *range(6250, 26_251, 1250)]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("target.every_epochs=0",), "target.every_epochs is 0: it must be a finite number above 0"),
        (("target.every_epochs=2", "target.every_steps=50"), "target.every_epochs is 2 and target.every_steps 50: one"),
        (
            ("target.every_epochs=2", "dataset.images=null"),
            "dataset.images is null: evaluations or a budget",
        ),
        (
            ("dataset.images=null", "batch_size=grow_64_at_32_96"),
            "dataset.images is null: evaluations or a budget",
        ),
        (("target.every_epochs=2", "dataset.images=0"), "dataset.images is 0: it must be at least 1"),
        (("target.every_epochs=9999",), "must be at least 17968256, to reach the first evaluation, at step 280754"),
        (
            ("batch_size=double_on_stall",),
            "give target.every_steps and target.budget_steps",
        ),
        (
            ("target.every_epochs=2", "batch_size=double_on_stall"),
            "batch_size is double_on_stall: gradients",
        ),
        (("target.every_steps=50", "batch_size=double_on_stall"), "when the metric stalls can't be counted beforehand"),
        (("target.metric=is",), "target.metric is 'is': "),
    ],
)
def test_intervals_and_metrics_that_make_no_sense_are_refused(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError) as refused:
        config(*overrides)
    assert words in str(refused.value)


def evaluations(*overrides: str, count: int = 6) -> list[int]:
    cadence = config(*overrides).cadence
    return [step := 0, *(step := cadence.following(step) for _ in range(count))][1:]


def test_every_batch_size_is_evaluated_at_the_same_gradients() -> None:
    due = evaluations("batch_size=1", count=40)
    assert due[:4] == [2000, 2100, 2205, 2315]
    for b in (2, 64, 96):
        assert evaluations(f"batch_size={b}") == list(dict.fromkeys(-(-g // b) for g in due))[:6]
    critic = ("batch_size=64", "model=wgan_gp", "model.critic_steps=5", "model.penalty=10")
    assert evaluations(*critic) == evaluations("batch_size=64")  # steps of the generator times b, whatever the critic's


def test_gradients_of_a_schedule_are_its_batches() -> None:
    """16 up to step 100, then 64: 1,600 gradients, and 64 a step."""
    growing = ("batch_size=at_steps", "batch_size.initial=16", "batch_size.schedule.at=[100]")
    found = (*growing, "batch_size.schedule.sizes=[64]", "target.first_gradients=1500", "target.precision=0.1")
    assert evaluations(*found, count=4) == [94, 101, 104, 107]  # 1,500, 1,650, 1,815 and 1,996
    assert config(*found, "target.budget_gradients=2000").budget == 106
    shared = ("batch_size=64", "branch_from.batch_size=16", "branch_from.step=100", *found[3 + 1 :])
    assert evaluations(*shared, count=4) == [94, 101, 104, 107]


def test_the_budget_ends_where_the_first_of_both_does() -> None:
    def budget(*overrides: str) -> int:
        return config(*overrides).budget

    assert [budget(f"batch_size={b}") for b in (1, 64, 1024)] == [250_000, 3906, 244]
    assert budget("batch_size=64", "target.budget_steps=3000") == 3000
    assert budget("batch_size=64", "target.budget_steps=4000") == 3906
    assert budget("batch_size=64", "target.budget_steps=4000", "target.budget_gradients=null") == 4000
    assert config("batch_size=64", "target.grant_steps=100").asked_steps == 100
    stalling = ("batch_size=double_on_stall", "target.every_steps=50", "target.budget_gradients=null")
    assert budget(*stalling, "target.budget_steps=700") == 700
