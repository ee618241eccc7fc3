"""How samples are spread over sensors: every sample to one sensor, no sensor without a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from fedquant.errors import DataError
from fedquant.kernels import rng
from fedquant.keys import Key, Purpose
from fedquant.tasks.base import Indices

Labels = npt.NDArray[np.integer]


def iid(key: Key, n: int, sensors: int) -> tuple[Indices, ...]:
    """Uniformly at random, in parts whose sizes differ by one sample at most.

    Raises DataError where n < sensors.
    """
    _check(n, sensors)
    return _sorted(np.array_split(rng.permutation(key, n), sensors))


def dirichlet(
    key: Key, labels: Labels, sensors: int, alpha: float, min_samples: int = 1
) -> tuple[Indices, ...]:
    """Each class in shares drawn from a symmetric Dirichlet distribution: skewed for a small alpha.

    A sensor left with fewer than min_samples gets the missing ones from the largest sensor.
    Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution" (arXiv 1909.06335),
    with the shares drawn per class, so that all samples are used.
    Raises DataError where there are fewer than min_samples for each sensor.
    """
    _check(len(labels), sensors, min_samples)
    classes = _by_class(key, labels)
    gammas = np.random.Generator(np.random.Philox(key=key.word))  # counter-based too
    shares = gammas.dirichlet(np.full(sensors, alpha), size=len(classes))
    parts: list[list[Indices]] = [[] for _ in range(sensors)]
    for members, share in zip(classes, shares, strict=True):
        ends = np.rint(np.cumsum(share)[:-1] * len(members)).astype(np.int64)
        for part, piece in zip(parts, np.split(members, ends), strict=True):
            part.append(piece)
    return _sorted(_level_up([np.concatenate(part) for part in parts], min_samples))


def by_label(key: Key, labels: Labels, sensors: int, labels_per_sensor: int = 2) -> tuple[Indices, ...]:
    """Each sensor has samples of exactly `labels_per_sensor` classes.

    The sensors choose in turn, each time among the classes with the fewest holders, ties drawn by
    key; a class is then split evenly among its holders.
    After the shards of McMahan et al., "Communication-efficient learning" (arXiv 1602.05629).
    Raises DataError where that leaves a class without a sensor or a sensor short of a class.
    """
    _check(len(labels), sensors)
    classes = _by_class(key, labels)
    if not len(classes) / sensors <= labels_per_sensor <= len(classes):
        raise DataError(
            f"by_label: {sensors} sensors with labels_per_sensor={labels_per_sensor} cannot hold "
            f"{len(classes)} classes; give each {-(-len(classes) // sensors)} to {len(classes)}"
        )
    holders: list[list[int]] = [[] for _ in classes]
    ties = rng.uint32(key, sensors * len(classes)).reshape(sensors, len(classes))
    for sensor in range(sensors):
        chosen = np.lexsort((ties[sensor], [len(h) for h in holders]))[:labels_per_sensor]
        for c in chosen:
            holders[c].append(sensor)
    parts: list[list[Indices]] = [[] for _ in range(sensors)]
    for members, held_by in zip(classes, holders, strict=True):
        if len(members) < len(held_by):
            raise DataError(
                f"by_label: {len(members)} samples of one class for {len(held_by)} sensors; "
                "use fewer sensors or fewer labels_per_sensor"
            )
        for sensor, piece in zip(held_by, np.array_split(members, len(held_by)), strict=True):
            parts[sensor].append(piece)
    return _sorted([np.concatenate(part) for part in parts])


def by_id(ids: npt.NDArray[np.integer]) -> tuple[Indices, ...]:
    """One part per distinct id, in increasing order of the ids."""
    _, sensor_of = np.unique(ids, return_inverse=True)
    order = np.argsort(sensor_of, kind="stable")
    return tuple(np.split(order, np.cumsum(np.bincount(sensor_of))[:-1])) if len(ids) else ()


@dataclass(frozen=True)
class Partition:
    """A way to spread samples: `alpha` is used by dirichlet, `labels_per_sensor` by by_label."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    scheme: Literal["iid", "dirichlet", "by_label"] = "iid"
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.3
    labels_per_sensor: Annotated[int, Field(ge=1)] = 2

    def split(self, key: Key, labels: Labels, sensors: int) -> tuple[Indices, ...]:
        """int64 indices into `labels: integer[n]`, one increasing array per sensor."""
        key = key.fold(purpose=Purpose.PARTITION)
        match self.scheme:
            case "iid":
                return iid(key, len(labels), sensors)
            case "dirichlet":
                return dirichlet(key, labels, sensors, self.alpha)
            case "by_label":
                return by_label(key, labels, sensors, self.labels_per_sensor)


def _check(n: int, sensors: int, min_samples: int = 1) -> None:
    if n < sensors * min_samples:
        raise DataError(
            f"partition: {n} samples are too few for {sensors} sensors with at least {min_samples} "
            "each; use fewer sensors or more samples"
        )


def _by_class(key: Key, labels: Labels) -> list[Indices]:
    """The indices of each class's samples, shuffled."""
    shuffled = rng.permutation(key.fold(part=1), len(labels))
    return [shuffled[part] for part in by_id(labels[shuffled])]


def _level_up(parts: list[Indices], min_samples: int) -> list[Indices]:
    """Moves samples from the largest part to those with fewer than min_samples."""
    sizes = np.array([len(part) for part in parts])
    for short in np.flatnonzero(sizes < min_samples):
        while sizes[short] < min_samples:
            largest = int(sizes.argmax())
            parts[short] = np.append(parts[short], parts[largest][-1])
            parts[largest] = parts[largest][:-1]
            sizes[short] += 1
            sizes[largest] -= 1
    return parts


def _sorted(parts: list[Indices]) -> tuple[Indices, ...]:
    return tuple(np.sort(part) for part in parts)
