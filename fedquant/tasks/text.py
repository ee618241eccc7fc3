"""Texts as token numbers: AG-News, from Hugging Face or from two CSV files."""

from __future__ import annotations

import csv
import importlib
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from pydantic import ConfigDict, Field
from torch import nn

from fedquant.errors import ConfigError, DataError
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.tasks.base import Dataset
from fedquant.tasks.models import BiLSTM
from fedquant.tasks.vision import Part, Stored

_PAD: Final = 0
_UNKNOWN: Final = 1
_FIRST: Final = 2  # the token of the most frequent word
_OWN_WORDS: Final = 4  # of a synthetic class
_WORD: Final = re.compile(r"[a-z0-9]+")
_HUB: Final = "fancyzhx/ag_news"


@dataclass(frozen=True)
class AgNews(Stored):
    """News in 4 topics, 120,000 to train and 7,600 to test: the first `length` words of each.

    source: huggingface keeps `ag_news/train.csv` and `test.csv` under root, and fetches them with the
    package datasets where they are missing; csv reads those of `folder` (columns text and label, 0 to 3).
    vocabulary: rows of the embedding; token 0 pads, 1 is a word that is not among the most frequent
    `vocabulary - 2` of all training texts.
    embeddings: a GloVe text file (under root, or an absolute path) of `dimension` numbers a word to
    start from; tune_embeddings: train them too, rather than leave them as every node reads them.
    hidden: units of each direction of the LSTM. The paper has dimension 300, from GloVe.
    Zhang, Zhao, LeCun, "Character-level convolutional networks for text classification" (arXiv
    1509.01626). Raises ConfigError for embeddings of synthetic words, and none to keep.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: ClassVar[str] = "ag_news"
    dtype: ClassVar[type[np.generic]] = np.int64
    counts: ClassVar[dict[Part, int]] = {"train": 120_000, "test": 7_600}

    source: Literal["huggingface", "csv", "synthetic"] = "huggingface"
    model: Literal["bilstm"] = "bilstm"
    folder: str = "ag_news_5k"
    length: Annotated[int, Field(ge=1, le=1024)] = 48
    vocabulary: Annotated[int, Field(ge=32, le=1 << 20)] = 10_000
    embeddings: str | None = None
    tune_embeddings: bool = True
    dimension: Annotated[int, Field(ge=1, le=4096)] = 100
    hidden: Annotated[int, Field(ge=1, le=4096)] = 64

    def __post_init__(self) -> None:
        if self.embeddings is not None and self.source == "synthetic":
            raise ConfigError(
                "ag_news: embeddings need words, and source: synthetic has none; use csv or huggingface"
            )
        if self.embeddings is None and not self.tune_embeddings:
            raise ConfigError("ag_news: tune_embeddings: false needs embeddings: the path of a GloVe file")

    @property
    def shape(self) -> tuple[int]:
        """Tokens of a text."""
        return (self.length,)

    @property
    def n_classes(self) -> int:
        return 4

    def build_model(self) -> nn.Module:
        model = BiLSTM(self.vocabulary, self.dimension, self.hidden, self.n_classes)
        if self.embeddings is not None:
            path = self._root() / Path(self.embeddings).expanduser()
            rows, vectors = _glove(path, self.dimension, self._words())
            with torch.no_grad():
                model.embedding.weight[torch.tensor(rows)] = torch.tensor(vectors)
            model.embedding.weight.requires_grad_(self.tune_embeddings)
        return model

    def _read(self, part: Part) -> Dataset:
        token = {word: i for i, word in enumerate(self._words(), start=_FIRST)}
        texts, labels = _read_csv(self._files() / f"{part}.csv", self.n_classes)
        x = np.full((len(texts), self.length), _PAD, np.int64)
        for row, text in zip(x, texts, strict=True):
            tokens = [token.get(word, _UNKNOWN) for word in _split(text)[: self.length]]
            row[: len(tokens)] = tokens
        return Dataset(x, labels)

    def _draw(self, part: Part, y: Any, key: Key) -> Any:
        """int64: three words of four from the class's own, one from all; half to all of the length."""
        n, own, size = len(y), _OWN_WORDS, len(y) * self.length
        of_class = y.repeat(self.length) * own + rng.integers(key.fold(stream=2), size, own)
        of_any = rng.integers(key.fold(stream=3), size, own * self.n_classes)
        words = np.where(rng.integers(key.fold(stream=4), size, 4) > 0, of_class, of_any) + _FIRST
        words = words.reshape(n, self.length)
        lengths = self.length - rng.integers(key.fold(stream=5), n, self.length // 2 + 1)
        words[np.arange(self.length) >= lengths[:, None]] = _PAD
        return words

    def _words(self) -> tuple[str, ...]:
        return _vocabulary(self._files() / "train.csv", self.vocabulary - _FIRST, self.n_classes)

    def _files(self) -> Path:
        """The folder of the CSV files, filled where it may be."""
        if self.source == "csv":
            return self._root() / self.folder
        folder = self._root() / "ag_news"
        if not self.download or _complete(folder):
            return folder
        hub = _package()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):  # the processes of one run may come at once
                if not _complete(folder):
                    _fetch(hub, folder)
        except OSError as error:  # connection errors, too
            raise DataError(
                f"ag_news: {_HUB} cannot be fetched to {folder} ({error}); check the network and that the "
                "folder can be written, or set source: csv"
            ) from error
        return folder


def _complete(folder: Path) -> bool:
    return all((folder / f"{part}.csv").is_file() for part in ("train", "test"))


def _package() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            "ag_news: source: huggingface needs the package datasets; pip install 'fedquant[datasets]', or "
            "set source: csv"
        ) from error


def _fetch(hub: Any, folder: Path) -> None:
    """Writes train.csv and test.csv."""
    parts = hub.load_dataset(_HUB)
    for part in ("train", "test"):
        target = folder / f"{part}.csv"
        partial = target.with_suffix(".part")
        with partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(("text", "label"))
            writer.writerows((row["text"], row["label"]) for row in parts[part])
        partial.replace(target)


def _read_csv(path: Path, classes: int) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Texts, and their labels: int64[n]. Raises DataError for a missing or broken file."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [(row["text"], int(row["label"])) for row in csv.DictReader(stream, strict=True)]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"ag_news: no readable {path} ({error}); it needs the columns text and label. Point root or "
            "FEDQUANT_DATA to the folder that holds it, name its folder, or set source: huggingface with "
            "download: true"
        ) from error
    labels = np.array([label for _, label in rows], np.int64)
    if not rows or labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"ag_news: {path} needs texts with labels from 0 to {classes - 1}")
    return [text for text, _ in rows], labels


def _split(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@lru_cache(maxsize=4)
def _vocabulary(path: Path, size: int, classes: int) -> tuple[str, ...]:
    """The most frequent words, at most `size`: by count, then in alphabetical order."""
    counts = Counter(word for text in _read_csv(path, classes)[0] for word in _split(text))
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:size])


@lru_cache(maxsize=2)
def _glove(
    path: Path, dimension: int, words: tuple[str, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(tokens: int64[k], vectors: float32[k, dimension]) of the words that a GloVe file has.

    Pennington, Socher, Manning, "GloVe" (EMNLP 2014). Raises DataError.
    """
    token = {word: i for i, word in enumerate(words, start=_FIRST)}
    found: dict[int, npt.NDArray[np.float32]] = {}
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                word = line[: line.find(" ")]
                if number > 1 and word not in token:
                    continue
                values = line.split()[1:]
                if len(values) < dimension or (number == 1 and len(values) != dimension):
                    raise ValueError(f"line {number} has {len(values)} numbers, dimension is {dimension}")
                if word in token and len(values) == dimension:  # not of an entry of several words
                    found[token[word]] = np.array(values, np.float32)
        if not found:
            raise ValueError("no word of the vocabulary is in it")
        vectors = np.stack(list(found.values()))
        if not np.isfinite(vectors).all():
            raise ValueError("not all its numbers are finite")
    except (OSError, ValueError) as error:
        raise DataError(
            f"ag_news: embeddings {path}: {error}; give a GloVe text file, a word and its numbers a line, "
            "and their dimension"
        ) from error
    return np.array(list(found), np.int64), vectors
