from __future__ import annotations

import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from torchvision import datasets

from fedquant import registry
from fedquant.errors import ConfigError, DataError
from fedquant.keys import Key
from fedquant.tasks import learn
from fedquant.tasks.vision import FashionMnist, Mnist, Vision

KEY = Key(1)


@pytest.mark.parametrize("cls", [Mnist, FashionMnist])
def test_load(cls: type[Vision], data_root: Path) -> None:
    """Standardized by the constants: 0 and 1 up to their four digits (deviation 0.3: 3e-4)."""
    task = cls(root=str(data_root), download=False)
    federation = task.load(KEY)
    x = federation.train.x
    assert x.shape == (60000, *task.shape)
    assert federation.test.x.shape == (10000, *task.shape)
    assert x.dtype == np.float32
    assert float(x.mean(dtype=np.float64)) == pytest.approx(0, abs=5e-4)
    assert float(x.std(dtype=np.float64)) == pytest.approx(1, abs=5e-4)
    assert set(federation.train.y.tolist()) == set(range(task.n_classes))
    assert federation.n_sensors == task.n_sensors == 20
    assert sum(federation.sizes) == 60000


def test_a_part_is_the_same_for_a_seed_and_grows_in_place(data_root: Path) -> None:
    def some(n: int, seed: int = 1) -> np.ndarray:
        return Mnist(root=str(data_root), train_samples=n, test_samples=50).load(Key(seed)).train.x

    assert some(200).shape == (200, 1, 28, 28)
    assert np.array_equal(some(300)[:200], some(200))
    assert not np.array_equal(some(200, seed=2), some(200))


def test_root_from_the_environment(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDQUANT_DATA", str(data_root))
    config = {"name": "mnist", "sensors": 4, "train_samples": 100, "download": False}
    task = registry.create("task", {**config, "partition": {"scheme": "by_label", "labels_per_sensor": 3}})
    federation = task.load(KEY)
    assert federation.n_sensors == 4
    assert all(len(set(federation.sensor(i).y.tolist())) == 3 for i in range(4))


def test_a_missing_set_without_download_names_root_and_fix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mnist: .*root .*set download: true.*FEDQUANT_DATA"):
        Mnist(root=str(tmp_path), download=False).load(KEY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_mistyped_root_is_not_filled(
    by_environment: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(self: object) -> None:
        raise AssertionError("tried")

    monkeypatch.setattr(datasets.MNIST, "download", download)
    root = str(tmp_path / "nowhere")
    monkeypatch.setenv("FEDQUANT_DATA", root if by_environment else str(tmp_path))
    with pytest.raises(DataError, match=f"mnist: root {root} is no folder that exists; make it"):
        Mnist(root=None if by_environment else root).load(KEY)
    assert list(tmp_path.iterdir()) == []


def test_the_default_root_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: object) -> None:
        raise RuntimeError("no\n  network:\n")

    monkeypatch.setattr(datasets.MNIST, "download", unreachable)
    monkeypatch.delenv("FEDQUANT_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=rf"root {tmp_path}/.cache/fedquant \(no network:\); check"):
        Mnist().load(KEY)


def test_a_failing_download_names_root_and_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(datasets.MNIST, "download", unreachable)
    with pytest.raises(DataError, match=r"fashion_mnist: .*FashionMNIST.*no network.*check the network"):
        FashionMnist(root=str(tmp_path)).load(KEY)


def test_missing_files_are_downloaded(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(self: datasets.MNIST) -> None:
        shutil.copytree(data_root / "MNIST", tmp_path / "MNIST", dirs_exist_ok=True)

    monkeypatch.setattr(datasets.MNIST, "download", copy)
    task = Mnist(root=str(tmp_path), train_samples=100, test_samples=50)
    assert len(task.load(KEY).test) == 50


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08\x03" + (60000).to_bytes(4, "big") + b"\0\0\0\x1c" * 2 + b"\1\2\3"]
)
def test_broken_files_are_named(content: bytes, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            (raw / f"{part}-{kind}").write_bytes(content)
    with pytest.raises(DataError, match=f"no readable MNIST under root {tmp_path}"):
        Mnist(root=str(tmp_path), download=False).load(KEY)


def test_more_samples_than_there_are(data_root: Path) -> None:
    with pytest.raises(DataError, match="test_samples=10001 exceeds the 10000"):
        Mnist(root=str(data_root), test_samples=10001).load(KEY)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [("lenet5", 61_706), ("fc", 1_116_410), ("cnn", 55_338), ("resnet18", 11_172_810)],
)
def test_models(model: str, parameters: int) -> None:
    task = registry.create("task", {"name": "fashion_mnist", "model": model, "norm": "batch"})
    built = learn.initialise(task, KEY)
    assert learn.segments(built)[-1] == parameters
    assert learn.get_buffers(built).size == (9_600 if model == "resnet18" else 0)


def test_synthetic_images_are_standardized_and_keyed(tmp_path: Path) -> None:
    """10 patterns of 16 squares: the mean over the classes' draws is 0 within 4/sqrt(160)."""
    task = Mnist(source="synthetic", root=str(tmp_path / "nowhere"), train_samples=500, test_samples=90)
    one, two, other = (task.load(Key(seed)) for seed in (1, 1, 2))
    x = one.train.x
    assert x.shape == (500, 1, 28, 28)
    assert x.dtype == np.float32
    assert abs(float(x.mean())) < 0.32
    assert float(x.std()) == pytest.approx(1, abs=0.2)
    assert np.bincount(one.train.y).tolist() == [50] * 10
    assert len(one.test) == 90
    assert x.tobytes() == two.train.x.tobytes()
    assert not np.array_equal(x, other.train.x)
    assert not np.array_equal(x[:90], one.test.x)
    nine = one.train.x[one.train.y == 9].mean(axis=0)
    np.testing.assert_allclose(
        one.test.x[one.test.y == 9].mean(axis=0), nine, atol=0.7
    )  # 6 sigma of 9 images
    assert not (tmp_path / "nowhere").exists()


def test_synthetic_sets_have_the_size_of_the_real_one() -> None:
    federation = Mnist(source="synthetic", sensors=3).load(KEY)
    assert federation.sizes == (20_000, 20_000, 20_000)
    assert len(federation.test) == 10_000


@pytest.mark.parametrize("model", ["lenet5", "fc", "cnn"])
def test_the_loss_falls_on_synthetic_images(model: str) -> None:
    """20 steps at a rate where chance is ln 10 = 2.30; measured: 0.04 to 1.2."""
    task = registry.create(
        "task",
        {"name": "mnist", "source": "synthetic", "model": model, "train_samples": 640, "test_samples": 100},
    )
    federation = task.load(KEY)
    built = learn.initialise(task, KEY)
    update, _ = learn.local_update(
        built, task, federation.train, np.split(np.arange(640), 20), lr=0.05, momentum=0.9
    )
    before = learn.evaluate(built, task, federation.test)["loss"]
    learn.set_parameters(built, learn.get_parameters(built) + update)
    assert before > 2.2
    assert learn.evaluate(built, task, federation.test)["loss"] < 1.8


@pytest.mark.parametrize(
    "wrong",
    [
        {"sensors": 0},
        {"train_samples": 0},
        {"model": "vgg"},
        {"source": "jpeg"},
        {"norm": "none"},
        {"typo": 1},
    ],
)
def test_wrong_fields_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        registry.create("task", {"name": "mnist", **wrong})
