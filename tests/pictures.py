"""Small data sets in their real form on disk, made by the tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from cbs.schema import DatasetConfig

WNIDS = ("n01440764", "n01443537", "n01484850")


def dataset(name: str, **fields: object) -> DatasetConfig:
    """Images of 16x16 in colour, stretched, of the training split, unless said otherwise."""
    split = "all" if name == "folder" else "train"
    plain = {"image_size": 16, "channels": 3, "fit": "stretch", "split": split, "source": None, "corrupt": "refuse"}
    return DatasetConfig(name, **{**plain, **fields})  # type: ignore[arg-type]


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    """A smooth colour image that survives JPEG."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(seed: int, kind: str = "JPEG", size: tuple[int, int] = (40, 30)) -> bytes:
    """A picture as the bytes of a file."""
    file = io.BytesIO()
    picture(size, seed).save(file, kind, quality=95)
    return file.getvalue()


def pixels(content: bytes, size: int = 16) -> np.ndarray:
    """What PIL alone makes of it: (3, size, size), stretched."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def put_tar(path: Path, members: dict[str, bytes]) -> bytes:
    """Write a tar of these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())
    return file.getvalue()


def put_files(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def imagenet_files(each: int = 2) -> dict[str, bytes]:
    """The images of three classes by <wnid>/<wnid>_<i>.JPEG, in the order of torchvision."""
    names = [f"{wnid}/{wnid}_{i}.JPEG" for wnid in WNIDS for i in range(each)]
    return {name: encoded(i) for i, name in enumerate(names)}


def put_celeba(folder: Path) -> dict[str, bytes]:
    """CelebA's five texts for five images: two for training, one to test, two to validate; returns the images."""
    files = {f"{i:06d}.jpg": encoded(i, size=(44, 54)) for i in range(1, 6)}
    texts = {
        "list_eval_partition.txt": [f"{name} {split}" for name, split in zip(files, "00211", strict=True)],
        "identity_CelebA.txt": [f"{name} 1" for name in files],
        "list_bbox_celeba.txt": ["5", "image_id x_1 y_1 width height", *(f"{name} 1 1 1 1" for name in files)],
        "list_landmarks_align_celeba.txt": ["5", "a b", *(f"{name} 1 1" for name in files)],
        "list_attr_celeba.txt": ["5", "Young Male", *(f"{name} 1 -1" for name in files)],
    }
    put_files(folder, {name: ("\n".join(lines) + "\n").encode() for name, lines in texts.items()})
    return files


def put_lmdb(folder: Path, values: dict[str, bytes]) -> None:
    """A database as LSUN's, from a key of hexadecimal digits to the bytes of a webp file."""
    import lmdb

    folder.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=2**24) as environment, environment.begin(write=True) as writing:
        for key, value in values.items():
            writing.put(key.encode(), value)
