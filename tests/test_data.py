"""The adapters, on small files in each data set's own form: images, order, classes, and what is said without them."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms import functional as T

from cbs.data.packed import prepare
from cbs.errors import InputError
from tests.pictures import (
    WNIDS,
    dataset,
    encoded,
    imagenet_files,
    picture,
    pixels,
    put_celeba,
    put_files,
    put_lmdb,
    put_tar,
)

DIGITS = dataset("digits", image_size=8, channels=1, fit="exact", split="all")
# What records of digits are keyed to.
DIGITS_SHA256 = "16e0fa511054dddcfede4bdb9c4916dcd5a89b9ae401b18a5f6934a10c76a96b"


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    packed = prepare(DIGITS, tmp_path)
    assert (packed.count, packed.shape, packed.classes, packed.skipped) == (1797, (1, 8, 8), 10, 0)
    assert packed.digest == DIGITS_SHA256
    np.testing.assert_array_equal(packed.images()[:, 0], np.rint(load_digits().images * 255 / 16))
    labels = packed.labels()
    assert labels is not None
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, load_digits().target)
    assert prepare(DIGITS, tmp_path) == packed


def test_a_folder_of_images(tmp_path: Path) -> None:
    put_files(tmp_path / "pictures", {f"{i}.png": encoded(i, "PNG") for i in range(7)})
    put_files(tmp_path / "pictures", {"deeper/8.png": encoded(8, "PNG"), "notes.txt": b"no image"})
    (tmp_path / "pictures" / "folder.png").mkdir()
    source = str(tmp_path / "pictures")
    stretched = prepare(dataset("folder", source=source), tmp_path / "data")
    cropped = prepare(dataset("folder", source=source, fit="crop"), tmp_path / "data")
    assert (stretched.count, stretched.shape, stretched.path != cropped.path) == (8, (3, 16, 16), True)
    assert stretched.classes == 0
    assert stretched.labels() is None
    np.testing.assert_array_equal(stretched.images()[2], pixels(encoded(2, "PNG")))
    expected = np.asarray(T.center_crop(T.resize(picture((40, 30), 2), 16), 16)).transpose(2, 0, 1)
    np.testing.assert_array_equal(cropped.images()[2], expected)


def test_sub_folders_are_classes_where_every_image_is_in_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = tmp_path / "pictures"
    put_files(source, {name: encoded(i) for i, name in enumerate(["b/1.jpg", "a/x/2.jpg", "b/y/0.jpg", "a.b/3.jpg"])})
    packed = prepare(dataset("folder", source=str(source)), tmp_path / "data")
    assert packed.classes == 3
    assert packed.labels() is not None
    assert packed.labels().tolist() == [0, 1, 2, 2]  # type: ignore[union-attr]
    np.testing.assert_array_equal(packed.images()[3], pixels(encoded(2)))
    assert "its folders as classes: 4 images (3 classes)" in capsys.readouterr().err


def test_a_folder_that_can_not_be_read_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_files(tmp_path / "pictures", {"a/1.jpg": encoded(1), "b/2.jpg": encoded(2)})
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("pictures/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"pictures/b can't be read \(Permission denied\)"):
        prepare(dataset("folder", source=str(tmp_path / "pictures")), tmp_path / "data")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_other_modes_are_as_pil_converts_them(mode: str, channels: int, tmp_path: Path) -> None:
    name = {"CMYK": "a.jpg"}.get(mode, "a.png")
    image = picture((16, 16), 0)
    if mode in ("LA", "I;16"):
        image = image.convert("L")
    image.convert(mode).save(tmp_path / name)
    packed = prepare(dataset("folder", source=str(tmp_path), channels=channels, fit="exact"), tmp_path / "data")
    with Image.open(tmp_path / name) as opened:
        expected = np.asarray(opened.convert("RGB" if channels == 3 else "L"))
    np.testing.assert_array_equal(packed.images()[0], expected.transpose(2, 0, 1) if channels == 3 else expected[None])


def test_images_of_another_size_are_refused_where_exact(tmp_path: Path) -> None:
    picture((9, 8), 0).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"dataset\.image_size is 8, but folder's images are 9x8"):
        prepare(dataset("folder", source=str(tmp_path), image_size=8, fit="exact"), tmp_path / "data")
    assert [p.name for p in (tmp_path / "data" / "packed").iterdir()] == [".claims"]


def test_cifar10_from_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (5, 4, 3072), dtype=np.uint8)
    contents = {f"data_batch_{i}": pickle.dumps({"data": row, "labels": [3, 1, 2, 0]}) for i, row in enumerate(rows, 1)}
    contents["test_batch"] = pickle.dumps({"data": rows[0], "labels": [0, 1, 2, 3]})
    contents["batches.meta"] = pickle.dumps({"label_names": list("abcd")})
    put_files(tmp_path / "cifar10" / "cifar-10-batches-py", contents)
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [[name, md5[name]] for name in md5 if name.startswith("data")])
    monkeypatch.setattr(kind, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]})
    packed = prepare(dataset("cifar10", image_size=32, fit="exact"), tmp_path)
    np.testing.assert_array_equal(packed.images(), rows.reshape(20, 3, 32, 32))
    assert packed.classes == 4
    np.testing.assert_array_equal(packed.labels(), [3, 1, 2, 0] * 5)


def celeba(layout: str, data: Path) -> Path:
    """Five images of CelebA in one of its layouts; returns what dataset.source is to be."""
    place = data if layout == "without its folder" else data / "celeba"
    files = put_celeba(place)
    if layout.startswith("zip"):
        kind = zipfile.ZIP_DEFLATED if "deflated" in layout else zipfile.ZIP_STORED
        with zipfile.ZipFile(place / "img_align_celeba.zip", "w", kind) as archive:
            archive.mkdir("img_align_celeba")
            for name in sorted(files, reverse=True):
                archive.writestr(f"img_align_celeba/{name}", files[name])
    else:
        put_files(place / "img_align_celeba", files)
    return place / "img_align_celeba" if layout == "the images' folder" else data


@pytest.mark.parametrize("layout", ["folder", "zip", "zip, deflated", "without its folder", "the images' folder"])
def test_celeba_in_each_layout(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = celeba(layout, tmp_path / "original")
    files = list(put_celeba(tmp_path / "unused").values())
    for split, members in (("train", files[:2]), ("test", files[2:3]), ("valid", files[3:]), ("all", files)):
        packed = prepare(dataset("celeba", split=split, source=str(source)), tmp_path / "data")
        np.testing.assert_array_equal(packed.images(), [pixels(content) for content in members])
        assert packed.classes == 0
    assert ("img_align_celeba.zip, read in place" in capsys.readouterr().err) == layout.startswith("zip")


def test_celeba_is_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    celeba("folder", tmp_path)
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    theirs = torchvision.datasets.CelebA(tmp_path, split="train")
    ours = prepare(dataset("celeba"), tmp_path).images()
    assert len(theirs) == len(ours)
    for (image, _), found in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(np.asarray(T.resize(image.convert("RGB"), [16, 16])).transpose(2, 0, 1), found)


def test_celeba_is_downloaded_by_torchvision_where_it_is_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(self: torchvision.datasets.CelebA) -> None:
        celeba("folder", Path(self.root))

    monkeypatch.setattr(torchvision.datasets.CelebA, "download", download)
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    assert prepare(dataset("celeba"), tmp_path).count == 2


def test_celeba_with_parts_missing_says_which(tmp_path: Path) -> None:
    celeba("folder", tmp_path)
    (tmp_path / "celeba" / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(InputError, match=r"has no 000002\.jpg, nor 0 others of the 2 images"):
        prepare(dataset("celeba"), tmp_path)
    (tmp_path / "celeba" / "list_eval_partition.txt").unlink()
    with pytest.raises(InputError, match=r"list_eval_partition\.txt, which says .* or set dataset\.split=all"):
        prepare(dataset("celeba"), tmp_path)
    assert prepare(dataset("celeba", split="all"), tmp_path).count == 4


def test_half_a_zip_is_no_zip(tmp_path: Path) -> None:
    celeba("zip", tmp_path)
    archive = tmp_path / "celeba" / "img_align_celeba.zip"
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"img_align_celeba\.zip again"):
        prepare(dataset("celeba"), tmp_path)


def test_lsun_is_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LSUN's export: a key of 40 hexadecimal digits, and a webp whose short side is 256."""
    folder = tmp_path / "lsun_bedroom" / "bedroom_train_lmdb"
    put_lmdb(folder, {hashlib.sha1(bytes([i])).hexdigest(): encoded(i, "WEBP", (341, 256)) for i in range(4)})
    packed = prepare(dataset("lsun_bedroom", image_size=64, fit="crop"), tmp_path)
    assert (packed.count, packed.shape, packed.classes) == (4, (3, 64, 64), 0)
    monkeypatch.chdir(tmp_path)  # where torchvision leaves a file
    theirs = torchvision.datasets.LSUN(str(folder.parent), classes=["bedroom_train"])
    for (image, _), found in zip((theirs[i] for i in range(4)), packed.images(), strict=True):
        expected = np.asarray(T.center_crop(T.resize(image, [64]), [64])).transpose(2, 0, 1)
        np.testing.assert_array_equal(found, expected)


def test_lsun_without_lmdb_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_lmdb(tmp_path / "lsun_bedroom" / "bedroom_train_lmdb", {"0": encoded(0)})
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(InputError, match=r"^dataset lsun_bedroom needs the Python package lmdb: pip install lmdb\.$"):
        prepare(dataset("lsun_bedroom"), tmp_path)


def class_folders(root: Path, files: dict[str, bytes]) -> None:
    put_files(root / "train", files)


def class_tars(root: Path, files: dict[str, bytes]) -> None:
    inner = {}
    for wnid in reversed(WNIDS):
        members = {Path(n).name: content for n, content in reversed(files.items()) if n.startswith(wnid)}
        inner[f"{wnid}.tar"] = put_tar(root / "unused", members)
    put_tar(root / "ILSVRC2012_img_train.tar", inner)
    put_tar(root / "ILSVRC2012_img_train_t3.tar", {"n02085620.tar": b""})


def tar_shards(root: Path, files: dict[str, bytes], folder: str = "") -> None:
    members = {}
    for name, content in files.items():
        key, label = Path(name).stem, str(WNIDS.index(Path(name).parent.name)).encode()
        members |= {f"{key}.jpg": content, f"{key}.cls": label, f"{key}.json": b"{}"}
    cut = len(members) // 2 // 3 * 3
    for i, part in enumerate((list(members.items())[:cut], list(members.items())[cut:])):
        put_tar(root / folder / f"imagenet1k-train-{i:04d}.tar", dict(part))


def shards_in_a_folder(root: Path, files: dict[str, bytes]) -> None:
    tar_shards(root, files, "train")


IMAGENET = [
    (class_folders, "class folders in"),
    (class_tars, "ILSVRC2012_img_train.tar, read in place"),
    (tar_shards, "2 tar shards in"),
    (shards_in_a_folder, "2 tar shards in"),
]


@pytest.mark.parametrize(("layout", "words"), IMAGENET)
def test_imagenet_in_each_layout(layout, words: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    files = imagenet_files()
    layout(tmp_path / "imagenet", files)
    packed = prepare(dataset("imagenet"), tmp_path)
    np.testing.assert_array_equal(packed.images(), [pixels(content) for content in files.values()])
    np.testing.assert_array_equal(packed.labels(), [0, 0, 1, 1, 2, 2])
    assert packed.classes == 3
    assert words in capsys.readouterr().err


def test_imagenets_validation_images_are_unpacked_by_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A devkit in its form: synsets in meta.mat with their number of children, the ground truth by synset number."""
    root = tmp_path / "imagenet"
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(i, wnid, f"{wnid}, of it", "", 0) for i, wnid in enumerate(WNIDS, 1)] + [(4, "n00000001", "all", "", 3)]
    root.mkdir()
    scipy.io.savemat(root / "meta.mat", {"synsets": np.array(rows, dtype=fields)[:, None]})
    base = "ILSVRC2012_devkit_t12/data"
    truth = {
        f"{base}/meta.mat": (root / "meta.mat").read_bytes(),
        f"{base}/ILSVRC2012_validation_ground_truth.txt": b"3\n1\n",
    }
    put_tar(root / "ILSVRC2012_devkit_t12.tar.gz", truth)
    images = {f"ILSVRC2012_val_{i:08d}.JPEG": encoded(i) for i in (1, 2)}
    put_tar(root / "ILSVRC2012_img_val.tar", images)
    devkit = root / "ILSVRC2012_devkit_t12.tar.gz"
    devkit.write_bytes(gzip.compress(devkit.read_bytes()))
    for name, (file, _) in torchvision.datasets.imagenet.ARCHIVE_META.items():
        monkeypatch.setitem(torchvision.datasets.imagenet.ARCHIVE_META, name, (file, None))
    packed = prepare(dataset("imagenet", split="val"), tmp_path)
    np.testing.assert_array_equal(packed.images(), [pixels(encoded(2)), pixels(encoded(1))])
    np.testing.assert_array_equal(packed.labels(), [0, 1])


@pytest.mark.parametrize("layout", [class_tars, tar_shards])
@pytest.mark.parametrize("rest", [0.3, 0.6, 0.9])
def test_a_tar_that_is_cut_off_is_refused(layout, rest: float, tmp_path: Path) -> None:
    """Also between two members, where tarfile takes the cut for the end."""
    layout(tmp_path / "imagenet", imagenet_files())
    archive = min((tmp_path / "imagenet").glob("*train*.tar"))
    whole = archive.read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for size in (int(rest * end), int(rest * end) // 512 * 512, end):
        archive.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"\.tar.* is not a whole tar archive .*: fetch it again\.$"):
            prepare(dataset("imagenet"), tmp_path)


def test_a_damaged_header_within_a_tar_is_refused(tmp_path: Path) -> None:
    tar_shards(tmp_path / "imagenet", imagenet_files())
    archive = next((tmp_path / "imagenet").glob("*.tar"))
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"n01440764_1.jpg", b"n01440764_9.jpg", 1))  # its checksum no longer fits
    with pytest.raises(InputError, match="cut off or damaged after 3 files"):
        prepare(dataset("imagenet"), tmp_path)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.jpg": encoded(0)}, r"image .*0\.tar/a\.jpg has no class: its shard must hold a\.cls too\.$"),
        ({"a.jpg": encoded(0), "a.cls": b"tench"}, r"0\.tar/a\.cls is b'tench': it must hold a class number"),
        ({"a.txt": b"nothing"}, r"dataset imagenet has no image with dataset\.split=train in 1 tar shard in"),
    ],
)
def test_shards_without_classes_are_refused(members: dict[str, bytes], words: str, tmp_path: Path) -> None:
    put_tar(tmp_path / "imagenet" / "train-0.tar", members)
    with pytest.raises(InputError, match=words):
        prepare(dataset("imagenet"), tmp_path)


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path / "imagenet", imagenet_files())
    (tmp_path / "imagenet" / "train" / "n09999999").mkdir()
    with pytest.raises(InputError, match=r"train is not a folder of classes \(.*n09999999\)\.$"):
        prepare(dataset("imagenet"), tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10", ["cifar-10-python.tar.gz"]),
        ("celeba", ["img_align_celeba.zip", "its folder img_align_celeba", "list_eval_partition.txt"]),
        ("lsun_bedroom", ["bedroom_train_lmdb"]),
        (
            "imagenet",
            ["ILSVRC2012_devkit_t12.tar.gz", "train/n01440764/*.JPEG", "ILSVRC2012_img_train.tar", "<key>.cls"],
        ),
    ],
)
def test_missing_data_says_what_to_do(
    name: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.celeba.download_file_from_google_drive", refuse)
    with pytest.raises(InputError) as missing:
        prepare(dataset(name, image_size=64), tmp_path)
    for said in (*words, str(tmp_path)):
        assert said in str(missing.value)
    assert "\n" not in str(missing.value)
