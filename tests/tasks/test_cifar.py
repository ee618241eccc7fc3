from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torchvision import datasets

from fedquant.errors import DataError
from fedquant.keys import Key
from fedquant.tasks import learn
from fedquant.tasks.cifar import Cifar10, Cifar100, crop_and_flip

KEY = Key(1)
BESIDE = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fedquant"


def save(folder: Path, part: str, jpeg: Any, offsets: Any, labels: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{part}.npz", jpeg=jpeg, offsets=offsets, labels=labels)


def jpegs(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bytes, offsets) of uint8[n, h, w, 3]."""
    coded = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=95)
        coded.append(stream.getvalue())
    return np.frombuffer(b"".join(coded), np.uint8), np.cumsum([0, *map(len, coded)])


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A root with 20 images for each part, image i of the grey level 10·i and the class i mod 10."""
    images = np.zeros((20, 32, 32, 3), np.uint8) + (10 * np.arange(20, dtype=np.uint8))[:, None, None, None]
    for part in ("train", "test"):
        save(tmp_path / "cifar10-jpeg", part, *jpegs(images), np.arange(20) % 10)
    return tmp_path


def test_jpeg_images_are_decoded_once(colours: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Cifar10(source="jpeg", root=str(colours), sensors=2)
    federation = task.load(KEY)
    x = federation.train.x
    assert x.shape == (20, 3, 32, 32) == (20, *task.shape)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    assert federation.train.y.tolist() == [*range(10)] * 2
    grey = 10 * np.arange(20)[:, None] / 255  # flat grey survives JPEG to a level or so
    expected = (grey - np.array(task.mean)) / np.array(task.deviation)
    np.testing.assert_allclose(x.mean(axis=(2, 3)), expected, atol=1.5 / 255 / 0.24)
    assert len(list(cache.glob("cifar10-*.npy"))) == 1  # both parts are the same file here
    assert list(cache.glob("*.part")) == []

    def forbidden(*given: object, **named: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(Image, "open", forbidden)
    assert task.load(KEY).train.x.tobytes() == x.tobytes()


def test_other_bytes_are_decoded_anew(colours: Path, cache: Path) -> None:
    task = Cifar10(source="jpeg", root=str(colours), sensors=2)
    before = task.load(KEY).train.x
    images = np.full((20, 32, 32, 3), 200, np.uint8)
    save(colours / "cifar10-jpeg", "train", *jpegs(images), np.zeros(20, np.uint8))
    after = task.load(KEY)
    assert not np.array_equal(after.train.x, before)
    assert not after.train.y.any()
    assert len(list(cache.glob("cifar10-*.npy"))) == 2


def test_a_missing_copy_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no readable .*cifar10-jpeg/train.npz.*source: torchvision"):
        Cifar10(source="jpeg", root=str(tmp_path)).load(KEY)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and then nothing", b"\x93NUMPY"])
def test_a_broken_copy_is_named(content: bytes, colours: Path) -> None:
    (colours / "cifar10-jpeg" / "train.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"no readable .*train.npz"):
        Cifar10(source="jpeg", root=str(colours)).load(KEY)


@pytest.mark.parametrize("wrong", ["offset", "end", "label", "count"])
def test_wrong_offsets_and_labels_are_refused(wrong: str, colours: Path, cache: Path) -> None:
    jpeg, offsets = jpegs(np.zeros((3, 32, 32, 3), np.uint8))
    labels = np.arange(3)
    match wrong:
        case "offset":
            offsets[1] = offsets[2]
        case "end":
            offsets[-1] += 1
        case "label":
            labels[0] = 10
        case "count":
            labels = labels[:2]
    save(colours / "cifar10-jpeg", "train", jpeg, offsets, labels)
    with pytest.raises(DataError, match=r"train.npz is broken: expected increasing offsets"):
        Cifar10(source="jpeg", root=str(colours)).load(KEY)


def test_wrong_images_are_named_and_leave_no_cache(colours: Path, cache: Path) -> None:
    task = Cifar10(source="jpeg", root=str(colours))
    folder = colours / "cifar10-jpeg"
    save(folder, "train", *jpegs(np.zeros((1, 8, 9, 3), np.uint8)), np.zeros(1, np.uint8))
    with pytest.raises(DataError, match=r"image 0 of .*train.npz is broken \(9x8 pixels, expected 32x32\)"):
        task.load(KEY)
    save(folder, "train", np.arange(50, dtype=np.uint8), [0, 50], np.zeros(1, np.uint8))
    with pytest.raises(DataError, match=r"image 0 of .*train.npz is broken"):
        task.load(KEY)
    assert list(cache.glob("*.npy")) == []


def test_a_broken_cache_is_named(colours: Path, cache: Path) -> None:
    task = Cifar10(source="jpeg", root=str(colours), sensors=2)
    task.load(KEY)
    (file,) = cache.glob("*.npy")
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=f"no decoded images in {file}.*remove that file"):
        task.load(KEY)


def test_the_shared_copy(tmp_path: Path, cache: Path) -> None:
    """300 images of each part, spread over the classes: a channel's mean and deviation, 0 and 1 for all
    50,000 images, are within 0.15 (the means of images deviate by about 0.5, and 4 x 0.5/sqrt(300) = 0.12).
    """
    shared = Path(os.environ.get("FEDQUANT_SHARED") or BESIDE) / "data" / "cifar10-jpeg"
    if not (shared / "train.npz").is_file():
        pytest.skip(
            "no JPEG copy of CIFAR-10: set FEDQUANT_SHARED to the folder that holds data/cifar10-jpeg"
        )
    for part in ("train", "test"):
        with np.load(shared / f"{part}.npz", allow_pickle=False) as arrays:
            jpeg, offsets, labels = arrays["jpeg"], arrays["offsets"], arrays["labels"]
        some = np.linspace(0, len(labels) - 1, 300).astype(int)
        pieces = [jpeg[offsets[i] : offsets[i + 1]] for i in some]
        ends = np.cumsum([0, *map(len, pieces)])
        save(tmp_path / "cifar10-jpeg", part, np.concatenate(pieces), ends, labels[some])
    federation = Cifar10(source="jpeg", root=str(tmp_path)).load(KEY)
    x = federation.train.x
    assert x.shape == federation.test.x.shape == (300, 3, 32, 32)
    np.testing.assert_allclose(x.mean(axis=(0, 2, 3)), 0, atol=0.15)
    np.testing.assert_allclose(x.std(axis=(0, 2, 3)), 1, atol=0.15)
    assert np.bincount(federation.train.y).tolist() == pytest.approx([30] * 10, abs=2)


class Fake:
    """Like torchvision's CIFAR: uint8[n, 32, 32, 3] pixels and a list of labels."""

    def __init__(self, root: Path, train: bool, download: bool = False) -> None:
        if not (download or (root / "fetched").exists()):
            raise RuntimeError("Dataset not found or corrupted.")
        (root / "fetched").touch()
        self.data = np.arange(40 * 3072, dtype=np.int64).astype(np.uint8).reshape(40, 32, 32, 3)
        self.targets = [i % 10 for i in range(40)]


def test_torchvision_puts_channels_last_and_the_task_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cifar10, "reader", Fake)
    (root := tmp_path / "root").mkdir()
    with pytest.raises(DataError, match=r"cifar10: no readable Fake .*set download: true"):
        Cifar10(root=str(root), download=False).load(KEY)
    x = Cifar10(root=str(root)).load(KEY).train.x
    assert x.flags.c_contiguous
    pixel = Fake(root, True).data[7, 5, 6] / 255
    expected = (pixel - np.array(Cifar10.mean)) / np.array(Cifar10.deviation)
    np.testing.assert_allclose(x[7, :, 5, 6], expected, rtol=1e-5, atol=1e-6)


def test_readers() -> None:
    assert Cifar10.reader is datasets.CIFAR10
    assert Cifar100.reader is datasets.CIFAR100


@pytest.mark.parametrize(
    ("task", "parameters", "buffers"),
    [
        (Cifar10(), 1_756_426, 0),
        (Cifar10(model="resnet18"), 11_173_962, 0),
        (Cifar10(model="resnet18", norm="batch"), 11_173_962, 9_600),
        (Cifar100(norm="batch"), 21_328_292, 17_024),
    ],
)
def test_models(task: Cifar10 | Cifar100, parameters: int, buffers: int) -> None:
    model = learn.initialise(task, KEY)
    assert learn.segments(model)[-1] == parameters
    assert learn.get_buffers(model).size == buffers


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (Cifar10, {"model": "vgg"}),
        (Cifar10, {"norm": "none"}),
        (Cifar10, {"sensors": 0}),
        (Cifar100, {"source": "jpeg"}),
        (Cifar100, {"typo": 1}),
    ],
)
def test_wrong_fields_are_refused(cls: type[Cifar10], wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TypeAdapter(cls).validate_python(wrong)


def test_synthetic_classes() -> None:
    federation = Cifar100(source="synthetic", sensors=4, train_samples=400, test_samples=100).load(KEY)
    assert federation.train.x.shape == (400, 3, 32, 32)
    assert np.bincount(federation.train.y).tolist() == [4] * 100
    assert federation.sizes == (100,) * 4


def test_cifarnet_learns_synthetic_images() -> None:
    """8 steps; chance is ln 10 = 2.30."""
    task = Cifar10(source="synthetic", train_samples=128, test_samples=50)
    federation = task.load(KEY)
    model = learn.initialise(task, KEY)
    batches = np.split(np.arange(128), 8)
    update, _ = learn.local_update(model, task, federation.train, batches, lr=0.02, momentum=0.9)
    before = learn.evaluate(model, task, federation.test)["loss"]
    learn.set_parameters(model, learn.get_parameters(model) + update)
    assert learn.evaluate(model, task, federation.test)["loss"] < before - 0.2


def test_resnet18_takes_a_step_downhill() -> None:
    """Along its gradient the loss of the same 4 images falls."""
    task = Cifar10(source="synthetic", model="resnet18", train_samples=20, test_samples=1)
    batch = task.load(KEY).train.take(np.arange(4))
    model = learn.initialise(task, KEY)
    gradient, before = learn.gradient(model, task, batch)
    learn.set_parameters(model, learn.get_parameters(model) - np.float32(1e-3) * gradient)
    assert learn.losses(model, task, batch).mean() < before.mean()


def test_crop_and_flip_depends_on_image_key_and_place() -> None:
    x = np.random.Generator(np.random.Philox(1)).standard_normal((40, 3, 8, 8)).astype(np.float32)
    out = crop_and_flip(x, KEY)
    assert out.shape == x.shape
    assert out.dtype == np.float32
    np.testing.assert_array_equal(crop_and_flip(x[:7], KEY), out[:7])
    assert not np.array_equal(crop_and_flip(x, Key(2)), out)


def test_crop_and_flip_moves_and_mirrors() -> None:
    """An image holds its own row and column numbers: 81 moves and 2 directions, all of them drawn.

    1,000 draws of 162: a given one is missing with probability (161/162)^1000 = 0.2 %; the seed is fixed.
    """
    n, side, padding = 1000, 12, 4
    grid = np.stack(np.meshgrid(np.arange(1, side + 1), np.arange(1, side + 1), indexing="ij"))
    out = crop_and_flip(np.broadcast_to(grid, (n, 2, side, side)).astype(np.float32), KEY, padding)
    moves = set()
    for image in out:
        rows, columns = image[0].max(axis=1), image[1].max(axis=0)
        mirrored = columns[5] > columns[6]
        down = int(rows[6]) - 7  # the middle is never padding
        right = int(columns[::-1][6] if mirrored else columns[6]) - 7
        moves.add((down, right, bool(mirrored)))
        source = np.zeros((2, side + 2 * padding, side + 2 * padding))
        source[:, padding:-padding, padding:-padding] = grid
        cut = source[:, padding + down :][:, :side, padding + right :][:, :, :side]
        np.testing.assert_array_equal(image, cut[..., ::-1] if mirrored else cut)
    assert len(moves) == 162


def test_augmentation_is_the_tasks_choice() -> None:
    plain = Cifar10(source="synthetic", train_samples=40, test_samples=10)
    moved = Cifar10(source="synthetic", train_samples=40, test_samples=10, augmentation=True)
    data = plain.load(KEY).train
    assert plain.augment(data, KEY) is data
    seen = moved.augment(data, KEY)
    assert seen.y is data.y
    assert np.array_equal(seen.x, crop_and_flip(data.x, KEY))
    assert not np.array_equal(seen.x, data.x)
