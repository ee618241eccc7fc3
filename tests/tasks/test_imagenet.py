from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from fedquant import registry
from fedquant.errors import ConfigError, DataError
from fedquant.keys import Key
from fedquant.tasks import imagenet, learn
from fedquant.tasks.base import Dataset, Federation, Lazy, load
from fedquant.tasks.imagenet import ImageNet

KEY = Key(1)
CLASSES = ("n01", "n02", "n03")


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", quality=95)


def flat(level: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes: training image j of class c has the level 20·(3c + j), its only test image 100·c."""
    for c, name in enumerate(CLASSES):
        for j in range(3):
            save(tmp_path / "imagenet" / "train" / name / f"{name}_{j}.JPEG", flat(20 * (3 * c + j)))
        save(tmp_path / "imagenet" / "val" / name / f"val_{c}.JPEG", flat(100 * c))
    return tmp_path


def task(root: Path, train_samples: int | None = None, test_samples: int | None = None) -> ImageNet:
    return ImageNet(root=str(root), sensors=3, train_samples=train_samples, test_samples=test_samples)


def levels(x: np.ndarray) -> np.ndarray:
    """The grey levels of standardized flat images."""
    mean, deviation = (np.array(v)[:, None, None] for v in (ImageNet.mean, ImageNet.deviation))
    return np.asarray((x * deviation + mean) * 255).mean(axis=(-3, -2, -1))


def test_folder(root: Path) -> None:
    federation = task(root).load(KEY)
    x = federation.train.x
    assert isinstance(x, Lazy)
    assert len(x) == len(federation.train) == 9
    assert x.shape == (9, 3, 224, 224)
    assert x.dtype == x[:1].dtype == np.float32
    np.testing.assert_allclose(levels(x[:]), 20 * np.arange(9), atol=1)  # flat grey survives JPEG to a level
    assert federation.train.y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    np.testing.assert_allclose(levels(federation.test.x[:]), [0, 100, 200], atol=1)
    assert federation.test.y.tolist() == [0, 1, 2]
    assert federation.sizes == (3, 3, 3)
    for sensor in range(3):
        data = federation.sensor(sensor)
        assert isinstance(data.x, np.ndarray)
        np.testing.assert_allclose(levels(data.x), 20 * federation.parts[sensor], atol=1)


def test_the_centre_of_an_image_scaled_to_256_is_seen(root: Path) -> None:
    """256 rows of 600 columns keep their size; 64 rows are scaled by 4; a border of 16 rows is cut off."""
    wide, small, tall = flat(0, 256, 600), flat(0, 64, 150), flat(0, 600, 256)
    wide[16:240, 188:412], tall[188:412, 16:240], small[3:61, 46:104] = 255, 255, 255
    for j, pixels in enumerate((wide, small, tall)):
        save(root / "imagenet" / "val" / "n01" / f"a{j}.JPEG", pixels)
    Image.fromarray(flat(90)[..., 0]).save(root / "imagenet" / "val" / "n01" / "b.JPEG")  # one channel
    x = task(root).load(KEY).test.x[:4]
    np.testing.assert_allclose(levels(x), [255, 255, 255, 90], atol=2)
    assert x[:3].min() > 1.8  # no black at any edge: (0.9 - 0.485) / 0.229


def test_what_is_seen_depends_on_the_image_alone(root: Path) -> None:
    x = task(root).load(KEY).train.x
    whole = x[:]
    for chosen in ([4], [8, 0, 3], [2, 2], np.arange(9) % 2 == 0, slice(2, 7, 2), -1):
        assert x[chosen].tobytes() == whole[chosen].tobytes()
    assert x[[]].shape == (0, 3, 224, 224)
    with pytest.raises(IndexError):
        x[9]
    with pytest.raises(TypeError):
        x[0] = 1


def test_only_what_is_asked_for_is_decoded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    decode = imagenet.default_loader
    monkeypatch.setattr(
        imagenet, "default_loader", lambda path: (seen.append(Path(path).name), decode(path))[1]
    )
    federation = load(task(root, train_samples=5, test_samples=2), KEY)
    assert len(federation.train) == 5
    assert seen == []
    some = federation.train.take([4, 1])
    assert len(seen) == 2
    names = [
        f"{CLASSES[c]}_{level // 20 % 3:.0f}.JPEG"
        for c, level in zip(some.y, levels(some.x).round(), strict=True)
    ]
    assert seen == names
    whole = task(root).load(KEY).train
    assert {x.tobytes() for x in federation.train.x[:]} < {x.tobytes() for x in whole.x[:]}


def test_a_broken_image_is_named_when_it_is_needed(root: Path) -> None:
    path = root / "imagenet" / "train" / "n02" / "n02_0.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    federation = task(root).load(KEY)
    assert federation.train.take([0, 2, 4]).x.shape == (3, 3, 224, 224)
    with pytest.raises(DataError, match=rf"imagenet: {path} is broken \(.*copy it again"):
        federation.train.take([3])
    path.unlink()
    with pytest.raises(DataError, match=rf"imagenet: {path} is broken"):
        federation.train.take([3])


def test_a_missing_set_says_how_to_lay_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDQUANT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"imagenet .*there is no download: .*train/<class>/\*.JPEG"):
        ImageNet().load(KEY)
    assert not (tmp_path / "imagenet").exists()
    monkeypatch.setenv("FEDQUANT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"imagenet: root .*nowhere is no folder that exists"):
        ImageNet().load(KEY)
    assert not (tmp_path / "nowhere").exists()


def test_validation_images_without_folders_are_refused(root: Path) -> None:
    for c, name in enumerate(CLASSES):
        here = root / "imagenet" / "val" / name
        (here / f"val_{c}.JPEG").rename(here.parent / f"val_{c}.JPEG")
        here.rmdir()
    with pytest.raises(DataError, match=r"find any class folder in .*val.*val/<class>/\*.JPEG"):
        task(root).load(KEY)


def test_classes_must_be_the_same_and_not_too_many(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ImageNet, "n_classes", 2)
        with pytest.raises(DataError, match=r"3 folders of classes in train and 3 in val; .* at most 2"):
            task(root).load(KEY)
    (root / "imagenet" / "val" / "n04").mkdir()
    with pytest.raises(DataError, match="3 folders of classes in train and 4 in val; expected the same"):
        task(root).load(KEY)
    (root / "imagenet" / "train" / "n04").mkdir()
    with pytest.raises(DataError, match=r"no readable images .*no valid file for the classes n04"):
        task(root).load(KEY)


def test_more_samples_than_there_are(root: Path) -> None:
    with pytest.raises(DataError, match="train_samples=10 exceeds the 9"):
        task(root, train_samples=10).load(KEY)


@pytest.mark.parametrize(
    "wrong", [{"download": True}, {"model": "lenet5"}, {"train_samples": (1 << 22) + 1}, {"source": "jpeg"}]
)
def test_wrong_fields_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        registry.create("task", {"name": "imagenet", **wrong})


def test_synthetic_images_are_keyed_one_by_one() -> None:
    def draw(seed: int) -> Federation:
        return ImageNet(source="synthetic", train_samples=2500, test_samples=1500).load(Key(seed))

    one, two, other = draw(1), draw(1), draw(2)
    chosen = np.array([1999, 3, 700])
    x = one.train.x[chosen]
    assert x.shape == (3, 3, 224, 224)
    assert x.dtype == np.float32
    for i, image in zip(chosen, x, strict=True):
        assert two.train.x[i].tobytes() == image.tobytes()
    assert not np.array_equal(other.train.x[chosen], x)
    assert not np.array_equal(one.test.x[chosen[1:]], x[1:])
    assert len({image.tobytes() for image in one.train.x[:50]}) == 50


def test_synthetic_images_show_their_class() -> None:
    """The means over 56x56 pixels are a class's levels in both parts: noise of 18.5 leaves 0.33 of 58.4."""
    federation = ImageNet(source="synthetic", train_samples=3000, test_samples=1000).load(KEY)
    assert np.bincount(federation.train.y).tolist() == [3] * 1000

    def squares(data: Dataset) -> np.ndarray:
        of_each = data.take([np.flatnonzero(data.y == c)[0] for c in (0, 7, 999)])
        return of_each.x.reshape(3, 3, 4, 56, 4, 56).mean(axis=(3, 5))

    train, test = squares(federation.train), squares(federation.test)
    np.testing.assert_allclose(train, test, atol=6 * 2**0.5 * 0.33 / 58.4)
    assert np.abs(train[0] - train[1]).mean() > 0.5
    assert abs(float(train.mean())) < 0.34  # 4 of 144 levels' 1/sqrt(144)
    assert float(federation.train.x[:20].std()) == pytest.approx(1, abs=0.1)


def test_a_set_of_full_size_needs_little_memory() -> None:
    """770 GB of samples: number, label and part take 8 bytes an image each, 32 MB in all."""
    tracemalloc.start()
    try:
        federation = ImageNet(source="synthetic", sensors=10_000).load(KEY)
        some = federation.sensor(9_999)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert federation.train.x.shape == (1_281_167, 3, 224, 224)
    assert len(federation.test) == 50_000
    assert some.x.shape == (128, 3, 224, 224)
    assert kept < some.x.nbytes + (64 << 20)
    assert peak < some.x.nbytes + (256 << 20)


@pytest.mark.parametrize(
    ("model", "parameters", "statistics"),
    [("resnet18", 11_689_512, 9_600), ("resnet34", 21_797_672, 17_024), ("resnet50", 25_557_032, 53_120)],
)
def test_models(model: Literal["resnet18", "resnet34", "resnet50"], parameters: int, statistics: int) -> None:
    """25,557,032 is h of DaQuSGD; drawn from the key alone."""
    of = {norm: ImageNet(source="synthetic", model=model, norm=norm) for norm in ("batch", "group")}
    batch, group = (learn.initialise(task, KEY) for task in of.values())
    assert learn.segments(batch)[-1] == learn.segments(group)[-1] == parameters
    assert learn.get_buffers(batch).size == statistics
    assert learn.get_buffers(group).size == 0
    vector = learn.get_parameters(batch)
    assert learn.get_parameters(learn.initialise(of["batch"], KEY)).tobytes() == vector.tobytes()
    assert not np.array_equal(learn.get_parameters(learn.initialise(of["batch"], Key(2))), vector)


def test_resnet18_takes_a_step_downhill() -> None:
    """Along its gradient the loss of the same 4 images falls; lazy ones are evaluated like arrays."""
    task = ImageNet(source="synthetic", model="resnet18", train_samples=20, test_samples=4)
    test = task.load(KEY).test
    batch = test.take(np.arange(4))
    model = learn.initialise(task, KEY)
    gradient, before = learn.gradient(model, task, batch)
    assert learn.gradient(model, task, test)[0].tobytes() == gradient.tobytes()
    learn.set_parameters(model, learn.get_parameters(model) - np.float32(1e-3) * gradient)
    assert learn.losses(model, task, batch).mean() < before.mean()
    assert learn.evaluate(model, task, test) == learn.evaluate(model, task, batch)
