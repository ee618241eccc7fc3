from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from fedquant.codecs.data import DataSpec
from fedquant.codecs.raw import Raw
from fedquant.errors import CodecError, ConfigError, DataError
from fedquant.keys import Key
from fedquant.tasks import learn
from fedquant.tasks.text import AgNews

KEY = Key(1)
BESIDE = Path(__file__).resolve().parents[3] / "shared"
TRAIN = (
    'text,label\n"The cat, the CAT\'s hat!",0\na dog & the cat,1\ndog b,2\n"two\nlines of naïve 90210",3\n'
)
# the 3, cat 3, dog 2, then alphabetically the words that occur once
WORDS = ["cat", "the", "dog", "90210", "a", "b", "hat", "lines", "na", "of", "s", "two", "ve"]


def write(root: Path, folder: str = "ag_news_5k", train: str = TRAIN) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "train.csv").write_text(train, encoding="utf-8")
    (root / folder / "test.csv").write_text("text,label\nunseen cat,3\n,0\n", encoding="utf-8")


def small(root: Path, **fields: object) -> AgNews:
    given: dict[str, object] = {
        "source": "csv",
        "root": str(root),
        "sensors": 2,
        "length": 6,
        "vocabulary": 32,
    }
    return AgNews(**given | fields)  # type: ignore[arg-type]


def test_words_are_numbered_by_count_then_alphabet(tmp_path: Path) -> None:
    write(tmp_path)
    federation = small(tmp_path).load(KEY)
    token = {word: i for i, word in enumerate(WORDS, start=2)}
    texts = ["the cat the cat s hat", "a dog the cat", "dog b", "two lines of na ve 90210"]
    expected = [[token[word] for word in text.split()] for text in texts]
    assert federation.train.x.dtype == np.int64 == AgNews.dtype
    assert federation.train.x.tolist() == [row + [0] * (6 - len(row)) for row in expected]
    assert federation.train.y.tolist() == [0, 1, 2, 3]
    assert federation.test.x.tolist() == [[1, token["cat"], 0, 0, 0, 0], [0] * 6]
    assert federation.n_sensors == 2


def test_the_vocabulary_and_the_length_are_limits(tmp_path: Path) -> None:
    many = "text,label\n" + "".join(f"word{i:02d} word{i:02d},0\n" for i in range(40)) + "x,1\n"
    write(tmp_path, train=many)
    federation = small(tmp_path, length=1).load(KEY)
    assert federation.train.x[:, 0].tolist() == [*range(2, 32), *[1] * 11]


def test_the_vocabulary_is_that_of_all_texts_whatever_part_is_used(tmp_path: Path) -> None:
    write(tmp_path)
    whole = small(tmp_path).load(KEY).train
    part = small(tmp_path, train_samples=2).load(Key(5)).train
    assert {tuple(row) for row in part.x.tolist()} < {tuple(row) for row in whole.x.tolist()}


def test_the_shared_subset() -> None:
    shared = Path(os.environ.get("FEDQUANT_SHARED") or BESIDE) / "data"
    if not (shared / "ag_news_5k" / "train.csv").is_file():
        pytest.skip("no AG-News subset: set FEDQUANT_SHARED to the folder that holds data/ag_news_5k")
    task = AgNews(source="csv", root=str(shared), train_samples=1500)
    federation = task.load(KEY)
    assert federation.train.x.shape == (1500, 48)
    assert federation.test.x.shape == (1000, 48)
    assert federation.train.x.max() < task.vocabulary
    assert np.bincount(federation.train.y).min() > 300
    assert (federation.train.x == 1).mean() < 0.1
    assert federation.train.x.tobytes() == task.load(KEY).train.x.tobytes()


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("", "needs texts with labels from 0 to 3"),
        ("headline,label\nx,1\n", "'text'.*columns text and label"),
        ("text,label\nx,4\n", "labels from 0 to 3"),
        ("text,label\nx,-1\n", "labels from 0 to 3"),
        ("text,label\nx,sports\n", "sports"),
        ("text,label\nx\n", "no readable"),
        ('text,label\n"x,1\n', "no readable"),
    ],
)
def test_broken_files_are_named(train: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, train=train)
    with pytest.raises(DataError, match=f"(?s)train.csv.*{said}|{said}"):
        small(tmp_path).load(KEY)


def test_a_missing_file_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no readable .*elsewhere/train.csv.*FEDQUANT_DATA.*huggingface"):
        small(tmp_path, folder="elsewhere").load(KEY)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in of the package datasets; the names asked of it."""
    asked: list[str] = []
    package = ModuleType("datasets")

    def load_dataset(name: str) -> dict[str, list[dict[str, object]]]:
        asked.append(name)
        rows: list[dict[str, object]] = [{"text": f'no "{i}",\nbut', "label": i} for i in range(4)]
        return {"train": rows, "test": rows[:2]}

    package.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", package)
    return asked


def test_hugging_face_is_asked_once(tmp_path: Path, hub: list[str]) -> None:
    task = small(tmp_path, source="huggingface")
    federation = task.load(KEY)
    assert hub == ["fancyzhx/ag_news"]
    assert federation.train.y.tolist() == [0, 1, 2, 3]
    assert federation.train.x[:, 3:].max() == 0  # three words each
    assert len(federation.test) == 2
    assert small(tmp_path, source="huggingface", download=False).load(KEY).train.x.shape == (4, 6)
    assert hub == ["fancyzhx/ag_news"]


def test_hugging_face_without_download(tmp_path: Path, hub: list[str]) -> None:
    with pytest.raises(DataError, match=r"no readable .*ag_news/train.csv.*download: true"):
        small(tmp_path, source="huggingface", download=False).load(KEY)
    assert hub == []


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'fedquant\[datasets\]', or set source: csv"):
        small(tmp_path, source="huggingface").load(KEY)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network(tmp_path: Path, hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"cannot be fetched to .*no network.*source: csv"):
        small(tmp_path, source="huggingface").load(KEY)


def glove(path: Path, lines: str) -> str:
    path.write_text(lines, encoding="utf-8")
    return str(path)


def test_embeddings_start_from_glove(tmp_path: Path) -> None:
    write(tmp_path)
    lines = "unused 9 9 9\ncat 1 2 3\nthe x@y.z 7 7 7\ndog -1 0.5 4e-1\n"
    glove(tmp_path / "vectors.txt", lines)
    task = small(tmp_path, embeddings="vectors.txt", dimension=3)
    scratch = learn.initialise(small(tmp_path, dimension=3), KEY).embedding.weight.detach().numpy()
    model = learn.initialise(task, KEY)
    weight = model.embedding.weight.detach().numpy()
    np.testing.assert_array_equal(weight[[2, 4]], np.array([[1, 2, 3], [-1, 0.5, 0.4]], np.float32))
    np.testing.assert_array_equal(np.delete(weight, [2, 4], axis=0), np.delete(scratch, [2, 4], axis=0))
    fixed = learn.initialise(
        small(tmp_path, embeddings="vectors.txt", dimension=3, tune_embeddings=False), KEY
    )
    assert learn.segments(model)[-1] - learn.segments(fixed)[-1] == 32 * 3
    np.testing.assert_array_equal(fixed.embedding.weight.detach().numpy(), weight)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("cat 1 2\n", "line 1 has 2 numbers, dimension is 3"),
        ("of 1 2 3\ncat 1 2\n", "line 2 has 2 numbers"),
        ("cat 1 2 x\n", "could not convert"),
        ("cat 1 2 nan\n", "finite"),
        ("bird 1 2 3\n", "no word of the vocabulary"),
        ("", "no word of the vocabulary"),
    ],
)
def test_wrong_embeddings_are_named(lines: str, said: str, tmp_path: Path) -> None:
    write(tmp_path)
    path = glove(tmp_path / "vectors.txt", lines)
    with pytest.raises(DataError, match=f"embeddings {path}: .*{said}.*GloVe"):
        small(tmp_path, embeddings=path, dimension=3).build_model()


def test_a_missing_embeddings_file(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match=r"embeddings .*nowhere.txt.*give a GloVe text file"):
        small(tmp_path, embeddings="nowhere.txt").build_model()


def test_embeddings_need_words_and_words_embeddings() -> None:
    with pytest.raises(ConfigError, match="source: synthetic has none"):
        AgNews(source="synthetic", embeddings="glove.txt")
    with pytest.raises(ConfigError, match="needs embeddings"):
        AgNews(tune_embeddings=False)


@pytest.mark.parametrize(
    "wrong", [{"length": 0}, {"vocabulary": 31}, {"hidden": 0}, {"source": "file"}, {"typo": 1}]
)
def test_wrong_fields_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TypeAdapter(AgNews).validate_python(wrong)


def test_synthetic_texts_are_keyed() -> None:
    task = AgNews(source="synthetic", train_samples=300, test_samples=40, sensors=3)
    one, two, other = (task.load(Key(seed)) for seed in (1, 1, 2))
    x = one.train.x
    assert x.shape == (300, *task.shape)
    assert x.dtype == np.int64
    assert x.max() == 17
    assert set((x > 0).sum(axis=1).tolist()) == set(range(24, 49))
    assert (x[:, :24] > 1).all()
    assert np.bincount(one.train.y).tolist() == [75] * 4
    assert x.tobytes() == two.train.x.tobytes()
    assert not np.array_equal(x, other.train.x)
    own = (x - 2) // 4 == one.train.y[:, None]
    assert own[x > 0].mean() == pytest.approx(3 / 4 + 1 / 16, abs=0.02)  # 10,800 words: sigma 0.004


def test_the_paper_s_size_and_ours() -> None:
    assert learn.segments(learn.initialise(AgNews(), KEY))[-1] == 1_209_604
    model = AgNews(source="synthetic", vocabulary=1000, dimension=300, hidden=128).build_model()
    embedding, first, second, attention, head = 300_000, 440_320, 395_264, 32_896, 33_412
    assert sum(p.numel() for p in model.parameters()) == embedding + first + second + attention + head


def test_the_model_learns_synthetic_texts_the_same_way_twice() -> None:
    """20 steps; chance is ln 4 = 1.386."""
    task = AgNews(
        source="synthetic",
        length=12,
        vocabulary=32,
        dimension=16,
        hidden=16,
        train_samples=320,
        test_samples=80,
    )
    federation = task.load(KEY)
    losses = []
    for _ in range(2):
        model = learn.initialise(task, KEY)
        batches = np.split(np.arange(320), 20)
        update, _ = learn.local_update(model, task, federation.train, batches, lr=0.3, momentum=0.9)
        learn.set_parameters(model, learn.get_parameters(model) + update)
        losses.append(learn.evaluate(model, task, federation.test)["loss"])
    assert losses[0] == losses[1]
    assert losses[0] < 1.2


def test_texts_are_no_data_uplink() -> None:
    task = AgNews(source="synthetic", train_samples=8, test_samples=8, sensors=1)
    data = task.load(KEY).train
    with pytest.raises(CodecError, match=r"int64\[8, 48\], expected float32"):
        Raw().encode(data.x, data.y, DataSpec(task.shape, 8, task.n_classes), KEY)
