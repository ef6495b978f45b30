"""Packing, sampling, and the adapters on small files in each data set's own form."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections import Counter
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from cbs.data.packed import prepare
from cbs.data.sampler import Sampler
from cbs.errors import InputError
from cbs.schema import DatasetConfig

DIGITS = DatasetConfig("digits", 8, 1, "exact", "all", None, "refuse")


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    """A smooth colour image that survives JPEG."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    packed = prepare(DIGITS, tmp_path)
    assert (packed.count, packed.shape) == (1797, (1, 8, 8))
    np.testing.assert_array_equal(packed.images()[:, 0], np.rint(load_digits().images * 255 / 16))
    assert prepare(DIGITS, tmp_path) == packed


@pytest.mark.parametrize("damage", ["truncate", "flip", "no meta", "bad meta"])
def test_a_damaged_packed_set_is_set_aside_and_made_anew(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = prepare(DIGITS, tmp_path)
    array, meta = packed.path / "images.npy", packed.path / "meta.json"
    if damage == "truncate":
        os.truncate(array, 1000)
    elif damage == "flip":
        stat = array.stat()
        with open(array, "r+b") as file:
            file.seek(5000)
            file.write(b"\x00\x01\x02")
        os.utime(array, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif damage == "no meta":
        meta.unlink()
    else:
        meta.write_text("{")
    again = prepare(DIGITS, tmp_path)
    assert again.digest == packed.digest
    assert "set aside" in capsys.readouterr().err
    assert len(list((tmp_path / "packed").glob("damaged-*"))) == 1
    np.testing.assert_array_equal(again.images()[:, 0], np.rint(load_digits().images * 255 / 16))


def _prepare_digits(folder: str) -> str:
    return prepare(DIGITS, Path(folder)).digest


def test_many_processes_may_prepare_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        digests = pool.map(_prepare_digits, [str(tmp_path)] * 4)
    assert len(set(digests)) == 1
    assert [p.name.split("-")[0] for p in (tmp_path / "packed").iterdir() if p.name != ".claims"] == ["digits"]


def test_a_folder_of_images(tmp_path: Path) -> None:
    source = tmp_path / "pictures" / "deeper"
    source.mkdir(parents=True)
    for i in range(7):
        picture((40, 30), i).save(source / f"{i}.png")
    (source / "notes.txt").write_text("no image")
    for fit, other in (("crop", "stretch"), ("stretch", "crop")):
        dataset = DatasetConfig("folder", 16, 3, fit, "all", str(tmp_path / "pictures"), "refuse")
        packed = prepare(dataset, tmp_path / "data")
        assert (packed.count, packed.shape) == (7, (3, 16, 16))
        assert (
            packed.path
            != prepare(DatasetConfig("folder", 16, 3, other, "all", dataset.source, "refuse"), tmp_path / "data").path
        )
    picture((40, 30), 2).resize((16, 16), Image.Resampling.BILINEAR)
    stretched = prepare(DatasetConfig("folder", 16, 3, "stretch", "all", dataset.source, "refuse"), tmp_path / "data")
    expected = np.asarray(picture((40, 30), 2).resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(stretched.images()[2], expected)


def test_an_image_that_can_not_be_decoded_is_named(tmp_path: Path) -> None:
    picture((8, 8), 0).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"b\.png can't be decoded"):
        prepare(DatasetConfig("folder", 8, 3, "exact", "all", str(tmp_path), "refuse"), tmp_path / "data")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"b\.png can't be decoded"):
        prepare(DatasetConfig("folder", 8, 3, "exact", "all", str(tmp_path), "refuse"), tmp_path / "data")


def test_images_of_another_size_are_refused_where_exact(tmp_path: Path) -> None:
    picture((9, 8), 0).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"dataset\.image_size is 8, but folder's images are 9x8"):
        prepare(DatasetConfig("folder", 8, 3, "exact", "all", str(tmp_path), "refuse"), tmp_path / "data")


def test_cifar10_from_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (5, 4, 3072), dtype=np.uint8)
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i, row in enumerate(rows, 1):
        (folder / f"data_batch_{i}").write_bytes(pickle.dumps({"data": row, "labels": [0, 1, 2, 3]}))
    (folder / "test_batch").write_bytes(pickle.dumps({"data": rows[0], "labels": [0, 1, 2, 3]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcd")}))
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [[f"data_batch_{i}", None] for i in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [["test_batch", None]])
    monkeypatch.setattr(kind, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None})
    packed = prepare(DatasetConfig("cifar10", 32, 3, "exact", "train", None, "refuse"), tmp_path)
    np.testing.assert_array_equal(packed.images(), rows.reshape(20, 3, 32, 32))


def test_celeba_from_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(1, 6)]
    for i, name in enumerate(names):
        picture((178, 218), i).save(folder / "img_align_celeba" / name, quality=95)
    lines = {
        "list_eval_partition.txt": [f"{n} {int(i > 2)}" for i, n in enumerate(names)],
        "identity_CelebA.txt": [f"{n} 1" for n in names],
        "list_bbox_celeba.txt": ["5", "image_id x_1 y_1 width height", *(f"{n} 1 1 1 1" for n in names)],
        "list_landmarks_align_celeba.txt": ["5", "a b", *(f"{n} 1 1" for n in names)],
        "list_attr_celeba.txt": ["5", "Young Male", *(f"{n} 1 -1" for n in names)],
    }
    for name, text in lines.items():
        (folder / name).write_text("\n".join(text) + "\n")
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    packed = prepare(DatasetConfig("celeba", 64, 3, "stretch", "train", None, "refuse"), tmp_path)
    assert (packed.count, packed.shape) == (3, (3, 64, 64))
    with Image.open(folder / "img_align_celeba" / names[1]) as image:
        expected = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(packed.images()[1], expected)


def test_lsun_from_its_own_files(tmp_path: Path) -> None:
    folder = tmp_path / "lsun_bedroom" / "bedroom_train_lmdb"
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**24) as environment, environment.begin(write=True) as writing:
        for i in range(4):
            file = tmp_path / "one.webp"
            picture((100, 80), i).save(file, quality=95)
            writing.put(f"key{i}".encode(), file.read_bytes())
    packed = prepare(DatasetConfig("lsun_bedroom", 64, 3, "crop", "train", None, "refuse"), tmp_path)
    assert (packed.count, packed.shape) == (4, (3, 64, 64))
    assert packed.images().std() > 10


def test_imagenet_from_its_own_files(tmp_path: Path) -> None:
    root = tmp_path / "imagenet"
    for wnid in ("n01440764", "n01443537"):
        (root / "train" / wnid).mkdir(parents=True)
        for i in range(2):
            picture((300, 200), i).save(root / "train" / wnid / f"{wnid}_{i}.JPEG")
    torch.save(({"n01440764": ("tench",), "n01443537": ("goldfish",)}, []), root / "meta.bin")
    packed = prepare(DatasetConfig("imagenet", 128, 3, "crop", "train", None, "refuse"), tmp_path)
    assert (packed.count, packed.shape) == (4, (3, 128, 128))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("celeba", "img_align_celeba.zip"),
        ("lsun_bedroom", "bedroom_train_lmdb"),
        ("imagenet", "ILSVRC2012_devkit_t12.tar.gz"),
    ],
)
def test_missing_data_says_what_to_do(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.celeba.download_file_from_google_drive", refuse)
    with pytest.raises(InputError) as missing:
        prepare(DatasetConfig(name, 64, 3, "stretch", "train", None, "refuse"), tmp_path)
    assert words in str(missing.value)
    assert str(tmp_path) in str(missing.value)
    assert "\n" not in str(missing.value)


def sampler(n: int, seed: int = 0) -> Sampler:
    return Sampler(torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1), seed, torch.device("cpu"))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_every_epoch_sees_each_image_once(n: int, b: int, seed: int) -> None:
    drawn = sampler(n, seed)
    indices = torch.cat([drawn.indices(b) for _ in range(-(-3 * n // b))])
    assert drawn.consumed == len(indices)
    for epoch in range(3):
        assert Counter(indices[epoch * n : (epoch + 1) * n].tolist()) == Counter(range(n))


@given(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(0, 100))
def test_sampling_resumes_anywhere_whatever_the_batches(n: int, sizes: list[int], start: int) -> None:
    whole = sampler(n)
    stream = whole.indices(start + sum(sizes))
    resumed = sampler(n)
    resumed.seek(start)
    assert torch.equal(torch.cat([resumed.indices(b) for b in sizes]), stream[start:])


def test_batches_are_images_in_minus_one_to_one() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    drawn = Sampler(images, 0, torch.device("cpu")).draw(2, [slice(2)])[0].images
    assert sorted(drawn.flatten().tolist()) == pytest.approx([-1.0, 1.0])


def test_several_workers_pack_the_same_bytes_and_name_what_they_can_not_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cbs.data import sources

    for i in range(300):
        picture((12, 10), i).save(tmp_path / f"{i:03d}.png")
    dataset = DatasetConfig("folder", 8, 3, "crop", "all", str(tmp_path), "refuse")
    alone = np.concatenate(list(sources.decoded(dataset, sources.open_source(dataset, tmp_path), 2)))
    monkeypatch.setattr(sources, "_FEW", 10)
    together = np.concatenate(list(sources.decoded(dataset, sources.open_source(dataset, tmp_path), 2)))
    np.testing.assert_array_equal(alone, together)
    (tmp_path / "123.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"^image .*123\.png can't be decoded .*remove it\.$"):
        list(sources.decoded(dataset, sources.open_source(dataset, tmp_path), 2))
