"""Packing: resumed, at once, with corrupt images, on a full disk; and that what lies on disk is what was packed."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageFile

from cbs.data import packed, packing, progress
from cbs.data.array_file import ArrayFile
from cbs.data.packed import prepare
from cbs.errors import InputError
from tests.conftest import ROOT
from tests.pictures import dataset, encoded, put_celeba, put_files, put_lmdb, put_tar
from tests.test_data import DIGITS, DIGITS_SHA256

ROW = 3 * 16 * 16


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of 40 images in two classes."""
    put_files(tmp_path / "pictures", {f"{'ab'[i // 20]}/{i:02d}.png": encoded(i, "PNG") for i in range(40)})
    return tmp_path / "pictures"


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four images, each written down at once."""
    monkeypatch.setattr(packing, "_BLOCK_BYTES", 4 * ROW)
    monkeypatch.setattr(packing, "_JOURNAL_SECONDS", 0.0)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images that are decoded from now on, but for those that only tell how long it takes."""
    seen: list[int] = []
    decode = packing.decode

    def noting(store, index, dataset):
        seen.append(index)
        return decode(store, index, dataset)

    monkeypatch.setattr(packing, "decode", noting)
    monkeypatch.setattr(packing.Packing, "_estimate", lambda *_: None)
    return seen


def files(found: packed.Packed) -> dict[str, bytes]:
    return {name: (found.path / name).read_bytes() for name in ("images.npy", "labels.npy") if found.classes}


def unfinished(data: Path) -> Path:
    (folder,) = (data / "packed").glob(".*.unfinished")
    return folder


SLOWLY = """
import sys, time
from pathlib import Path
from cbs.data import packing
from cbs.data.packed import prepare
from tests.pictures import dataset
packing._BLOCK_BYTES, packing._JOURNAL_SECONDS = 4 * 768, 0.0
decode = packing.decode
def slowly(store, index, dataset):
    time.sleep(0.02)
    return decode(store, index, dataset)
packing.decode = slowly
print(prepare(dataset("folder", source=sys.argv[1]), Path(sys.argv[2])).digest)
"""


def packing_process(source: Path, data: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", SLOWLY, str(source), str(data)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_packing_goes_on_where_it_was(source: Path, tmp_path: Path, blocks: None, decoded: list[int]) -> None:
    whole = prepare(dataset("folder", source=str(source)), tmp_path / "undisturbed")
    process = packing_process(source, tmp_path / "data")
    while not list((tmp_path / "data" / "packed").glob(".*.unfinished/journal.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = json.loads((unfinished(tmp_path / "data") / "journal.json").read_text())
    assert 0 < len(kept) < 10
    decoded.clear()
    resumed = prepare(dataset("folder", source=str(source)), tmp_path / "data")
    assert files(resumed) == files(whole)
    assert len(decoded) == 40 - 4 * len(kept)
    assert sorted(p.name for p in resumed.path.iterdir()) == sorted(p.name for p in whole.path.iterdir())
    assert not list((tmp_path / "data" / "packed").glob(".*unfinished"))


def interrupted(source: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stop packing a folder after some blocks; returns the unfinished one."""
    decode = packing.decode

    def stopping(store, index, dataset):
        if index >= 24:
            raise KeyboardInterrupt
        return decode(store, index, dataset)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "decode", stopping)
        with pytest.raises(KeyboardInterrupt):
            prepare(dataset("folder", source=str(source)), data)
    return unfinished(data)


@pytest.mark.parametrize("damage", ["a block", "the journal", "the array's end", "an image", "an image is gone"])
def test_what_no_longer_fits_is_made_again(
    damage: str, source: Path, tmp_path: Path, blocks: None, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted(source, tmp_path / "data", monkeypatch)
    array, journal = folder / "images.npy", folder / "journal.json"
    numbers = sorted(int(number) for number in json.loads(journal.read_text()))
    if damage == "a block":
        with open(array, "r+b") as file:
            file.seek(128 + numbers[0] * 4 * ROW + 5)
            file.write(bytes([1, 2, 3]))
    elif damage == "the journal":
        journal.write_text(journal.read_text()[:-20])
    elif damage == "the array's end":
        os.truncate(array, 128 + (numbers[-1] * 4 + 1) * ROW)
    elif damage == "an image":
        (source / "a" / "00.png").write_bytes(encoded(99, "PNG"))
    else:
        (source / "a" / "00.png").unlink()
    decoded.clear()
    resumed = prepare(dataset("folder", source=str(source)), tmp_path / "data")
    again = len(decoded)
    assert files(resumed) == files(prepare(dataset("folder", source=str(source)), tmp_path / "undisturbed"))
    left = 40 - 4 * len(numbers)
    expected = {
        "a block": left + 4,
        "the journal": 40,
        "the array's end": left + 4,
        "an image": left + 4 * (0 in numbers),
    }
    assert again == expected.get(damage, 39)


def test_two_processes_do_not_pack_it_twice(source: Path, tmp_path: Path) -> None:
    processes = [packing_process(source, tmp_path / "data") for _ in range(2)]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[0][0] == said[1][0] != ""
    assert sorted("packing folder" in err for _, err in said) == [False, True]


def test_threads_and_blocks_do_not_matter(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare(dataset("folder", source=str(source)), tmp_path / "whole")
    for threads, rows in ((1, 7), (5, 1), (3, 39)):
        monkeypatch.setattr(packed.joblib, "cpu_count", lambda threads=threads: threads)
        monkeypatch.setattr(packing, "_BLOCK_BYTES", rows * ROW)
        assert files(prepare(dataset("folder", source=str(source)), tmp_path / f"{rows}")) == files(whole)


def in_files(root: Path, images: dict[str, bytes]) -> str:
    put_files(root / "imagenet" / "train" / "n01440764", images)
    return "imagenet"


def in_class_tars(root: Path, images: dict[str, bytes]) -> str:
    inner = put_tar(root / "unused.tar", images)
    put_tar(root / "imagenet" / "ILSVRC2012_img_train.tar", {"n01440764.tar": inner})
    return "imagenet"


def in_shards(root: Path, images: dict[str, bytes]) -> str:
    members = {f"{Path(name).stem}.cls": b"0" for name in images}
    put_tar(root / "imagenet" / "train-0.tar", images | members)
    return "imagenet"


def in_a_zip(root: Path, images: dict[str, bytes]) -> str:
    put_celeba(root / "celeba")
    with zipfile.ZipFile(root / "celeba" / "img_align_celeba.zip", "w") as archive:
        for name, content in images.items():
            archive.writestr(f"img_align_celeba/{name}", content)
    lines = "".join(f"{name} 0\n" for name in images)
    (root / "celeba" / "list_eval_partition.txt").write_text(lines)
    return "celeba"


def in_an_lmdb(root: Path, images: dict[str, bytes]) -> str:
    put_lmdb(root / "lsun_bedroom" / "bedroom_train_lmdb", images)
    return "lsun_bedroom"


CONTAINERS = [in_files, in_class_tars, in_shards, in_a_zip, in_an_lmdb]
# lmdb keeps no empty values of a key apart from absent ones; all else holds any bytes.
BROKEN = {
    "1.jpg": encoded(1)[:-100],
    "3.jpg": b"",
    "4.jpg": b"<html>404 Not Found</html>",
    "6.jpg": encoded(6, "PNG")[:-30],
}
IMAGES = {f"{i}.jpg": encoded(i, "WEBP" if i == 5 else "JPEG") for i in range(8)}


@pytest.mark.parametrize("container", CONTAINERS)
def test_corrupt_images_are_all_named_and_refused_or_skipped(
    container: Callable[[Path, dict[str, bytes]], str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    name = container(tmp_path, {**IMAGES, **BROKEN})
    with pytest.raises(InputError) as refused:
        prepare(dataset(name), tmp_path)
    said = str(refused.value)
    assert said.startswith(f"dataset.corrupt is 'refuse', and 4 of 8 images of {name} can't be decoded: ")
    assert said.endswith("which goes on from here, or set dataset.corrupt=skip.")
    assert "\n" not in said
    for file, reason in (("1.jpg", "image file is truncated"), ("3.jpg", "empty file"), ("4.jpg", "not an image")):
        assert f"{file} ({reason}" in said
    assert "6.jpg" not in said
    assert "6.jpg" in (unfinished(tmp_path) / "corrupt.txt").read_text()
    assert "looking at the others too" in capsys.readouterr().err

    skipped = prepare(dataset(name, corrupt="skip"), tmp_path)
    shown = capsys.readouterr().err
    assert "4 of 8 images" in shown
    assert all(f"{i}.jpg (" in shown for i in (1, 3, 4, 6))
    assert (skipped.count, skipped.skipped) == (4, 4)
    assert [n.rpartition("/")[2] for n, _ in json.loads((skipped.path / "meta.json").read_text())["skipped"]] == list(
        BROKEN
    )
    assert not (skipped.path / "corrupt.txt").exists()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    by_hand = prepare(
        dataset(container(tmp_path / "clean", {n: c for n, c in IMAGES.items() if n not in BROKEN})), tmp_path / "clean"
    )
    assert (by_hand.digest, by_hand.skipped) == (skipped.digest, 0)
    if by_hand.classes:
        np.testing.assert_array_equal(by_hand.labels(), skipped.labels())

    with pytest.raises(InputError, match=r"was packed without 4 corrupt images.*set dataset\.corrupt=skip"):
        prepare(dataset(name), tmp_path)
    assert prepare(dataset(name, corrupt="skip"), tmp_path) == skipped


def test_a_member_that_fails_its_zips_checksum_is_corrupt(tmp_path: Path) -> None:
    in_a_zip(tmp_path, IMAGES)
    archive = tmp_path / "celeba" / "img_align_celeba.zip"
    archive.write_bytes(archive.read_bytes().replace(IMAGES["2.jpg"][-60:-50], b"0123456789", 1))
    with pytest.raises(InputError, match=r"1 of 8 images .*/2\.jpg \(Bad CRC-32"):
        prepare(dataset("celeba"), tmp_path)


def test_mended_images_are_the_only_ones_decoded_again(
    source: Path, tmp_path: Path, blocks: None, decoded: list[int]
) -> None:
    whole = prepare(dataset("folder", source=str(source)), tmp_path / "undisturbed")
    (source / "b" / "33.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"b/33\.png \(empty file\)"):
        prepare(dataset("folder", source=str(source)), tmp_path / "data")
    (source / "b" / "33.png").write_bytes(encoded(33, "PNG"))
    decoded.clear()
    assert files(prepare(dataset("folder", source=str(source)), tmp_path / "data")) == files(whole)
    assert sorted(decoded) == [32, 33, 34, 35]


def test_a_packing_killed_while_it_leaves_images_out_ends_alike(
    source: Path, tmp_path: Path, blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for broken in (source / "a" / "05.png", source / "b" / "30.png"):
        broken.write_bytes(b"broken")
    skip = dataset("folder", source=str(source), corrupt="skip")
    whole = prepare(skip, tmp_path / "undisturbed")
    assert whole.labels().tolist() == [0] * 19 + [1] * 19  # type: ignore[union-attr]
    for step in (0, 3, 8):
        with monkeypatch.context() as patch:
            writes, write = iter(range(step)), ArrayFile.write

            def dying(self, start, rows, writes=writes, write=write):
                if sys._getframe(1).f_code.co_name == "leave_out" and next(writes, None) is None:
                    raise KeyboardInterrupt
                write(self, start, rows)

            patch.setattr("cbs.data.array_file._CHUNK_BYTES", 4 * ROW)
            patch.setattr(ArrayFile, "write", dying)
            with pytest.raises(KeyboardInterrupt):
                prepare(skip, tmp_path / f"{step}")
        assert files(prepare(skip, tmp_path / f"{step}")) == files(whole)


def test_no_image_at_all_is_no_data_set(tmp_path: Path) -> None:
    put_files(tmp_path / "pictures", {"a.png": b"", "b.png": b""})
    with pytest.raises(InputError, match="2 of 2 images of folder can't be decoded"):
        prepare(dataset("folder", source=str(tmp_path / "pictures"), corrupt="skip"), tmp_path / "data")


def test_a_disk_that_fails_is_no_corrupt_image(source: Path, tmp_path: Path) -> None:
    (source / "a" / "03.png").unlink()
    (source / "a" / "03.png").symlink_to(tmp_path / "nowhere")
    for corrupt in ("refuse", "skip"):
        with pytest.raises(InputError, match=r"image .*03\.png can't be read \(No such file or directory\)"):
            prepare(dataset("folder", source=str(source), corrupt=corrupt), tmp_path / "data")


def test_too_little_room_is_said_before_anything_is_decoded(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 20000, 20000))
    with pytest.raises(InputError, match=r"40 images of folder take 30\.7 kB in .*packed, where 20\.0 kB are free\.$"):
        prepare(dataset("folder", source=str(source)), tmp_path / "data")
    assert decoded == []
    assert [p.name for p in (tmp_path / "data" / "packed").iterdir()] == [".claims"]


def test_a_disk_that_fills_up_meanwhile_is_no_crash(disk: Callable[[str], Path], tmp_path: Path, blocks: None) -> None:
    put_files(tmp_path / "pictures", {f"{i:03d}.png": encoded(i % 7, "PNG") for i in range(900)})
    folder = dataset("folder", source=str(tmp_path / "pictures"))
    data = disk("1m")
    (data / "packed").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 10**9))
        filler = data / "filler"
        filler.write_bytes(bytes(600_000))
        with pytest.raises(
            InputError, match=r"^paths\.data: there is no room left for folder in .*goes on from here\.$"
        ):
            prepare(folder, data)
        filler.unlink()
        found = prepare(folder, data)
    assert found.digest == prepare(folder, tmp_path / "data").digest


def test_what_is_to_come_is_said(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    prepare(dataset("folder", source=str(source)), tmp_path)
    first, second, third, last = capsys.readouterr().err.splitlines()
    assert first == f"packing folder from {source}, its folders as classes: 40 images (2 classes)"
    assert second.startswith(f"30.7 kB in {tmp_path / 'packed'}, where ")
    assert third.startswith("about 1 s with ")
    assert last.startswith("packed folder: ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    source: Path, tmp_path: Path, blocks: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(progress, "_SAY_SECONDS", 0.0)
    prepare(dataset("folder", source=str(source)), tmp_path / "lines")
    assert "packing folder: 20 of 40 images, 1 s left\n" in capsys.readouterr().err
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    prepare(dataset("folder", source=str(source)), tmp_path / "bar")
    assert "40/40" in terminal.getvalue()
    assert "images, 1 s left" not in terminal.getvalue()


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (600, "10 min"), (3600 * 2.52, "2.5 h")])
def test_durations(seconds: float, words: str) -> None:
    assert progress.about(seconds) == words


@given(st.integers(1, 30), st.sets(st.integers(0, 29), min_size=1), st.integers(1, 9))
def test_rows_left_out_are_as_if_never_there(count: int, gone: set[int], chunk: int) -> None:
    out = sorted(gone & set(range(count))) or [0]
    rows = np.random.default_rng(0).integers(0, 256, (count, 1, 2, 2), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("cbs.data.array_file._CHUNK_BYTES", chunk * 4)
        with ArrayFile(Path(folder) / "a.npy", count, (1, 2, 2)) as array:
            array.write(0, rows.tobytes())
            assert array.read(0, count) == rows.tobytes()
            array.leave_out(out, count)
        np.save(Path(folder) / "b.npy", np.delete(rows, out, axis=0))
        assert (Path(folder) / "a.npy").read_bytes() == (Path(folder) / "b.npy").read_bytes()


@pytest.mark.parametrize("damage", ["truncate", "flip", "no meta", "bad meta", "labels"])
def test_a_damaged_packed_set_is_set_aside_and_made_anew(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = prepare(DIGITS, tmp_path)
    array, meta, labels = (found.path / name for name in ("images.npy", "meta.json", "labels.npy"))
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
    elif damage == "bad meta":
        meta.write_text("{")
    else:
        labels.write_bytes(labels.read_bytes()[:-1] + b"\x07")
    again = prepare(DIGITS, tmp_path)
    assert "set aside" in capsys.readouterr().err
    assert len(list((tmp_path / "packed").glob("damaged-*"))) == 1
    assert again == found
    assert again.digest == DIGITS_SHA256


def test_a_set_larger_than_the_machine_opens_and_reads_little(tmp_path: Path) -> None:
    """200 GB, of which the file system keeps a few rows."""
    with ArrayFile(tmp_path / "images.npy", 1_000_000, (3, 256, 256)) as array:
        array.write(999_999, bytes([7]) * array.row_bytes)
    images = packed.Packed(tmp_path, 1_000_000, (3, 256, 256), "", 0, 0).images()
    before = psutil.Process().memory_info().rss
    assert images.shape == (1_000_000, 3, 256, 256)
    assert int(images[[3, 500_000, 999_999]].max()) == 7
    images[999_999] = 0
    assert int(np.load(tmp_path / "images.npy", mmap_mode="r")[999_999].min()) == 7
    assert psutil.Process().memory_info().rss - before < 50e6
