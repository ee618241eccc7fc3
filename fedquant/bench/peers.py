"""Other libraries' ways to make gradients small, where installed; every byte they would send counts."""

from __future__ import annotations

import importlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fedquant.bench.tensor import F32
from fedquant.codecs.base import Spec
from fedquant.codecs.groups import groups

Encode = Callable[[F32, Spec], tuple[int, Any]]
Decode = Callable[[Any], F32]

THREADS: Final = 2
BLOCK: Final = 64


@dataclass(frozen=True)
class Peer:
    """encode: (bytes, what decode takes) of x: float32[size].

    slow: takes seconds for a model of a million numbers. limit: how many it is measured on at most.
    """

    name: str
    library: str
    encode: Encode
    decode: Decode
    slow: bool = False
    limit: int | None = None


def peers() -> tuple[list[Peer], dict[str, str]]:
    """(what can be imported, why the others cannot)."""
    found: list[Peer] = []
    missing = {}
    for library, build in _LIBRARIES.items():
        try:
            with foreign():
                found += build(library)
        except Exception as error:  # foreign packages fail in many ways, and none must end the rest
            missing[library] = reason(error)
    return found, missing


def reason(error: Exception) -> str:
    """One line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


@contextmanager
def foreign() -> Iterator[None]:
    """Keeps to itself what a library prints and warns of, and lets torch use two threads."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else THREADS
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if torch:
            torch.set_num_threads(THREADS)
        yield
        if torch:
            torch.set_num_threads(before)


def _bitsandbytes(library: str) -> Iterator[Peer]:
    torch, functional = importlib.import_module("torch"), importlib.import_module("bitsandbytes.functional")

    def peer(name: str, quantize: Callable[[Any], Any], dequantize: Callable[[Any, Any], Any]) -> Peer:
        def encode(x: F32, spec: Spec) -> tuple[int, Any]:
            # Whole blocks have a decoder in C++, others one that torch first compiles for many seconds.
            codes, state = quantize(torch.from_numpy(np.pad(x, (0, -x.size % BLOCK))))
            sent = (codes, state.absmax, state.code)
            return sum(part.numel() * part.element_size() for part in sent), (codes, state, x.size)

        def decode(sent: Any) -> F32:
            codes, state, size = sent
            x: F32 = dequantize(codes, state).reshape(-1).numpy()[:size]
            return x

        return Peer(f"{library} {name}", library, encode, decode)

    blockwise = functional.quantize_blockwise, functional.dequantize_blockwise
    yield peer("blockwise 8 bit, 4096", lambda x: blockwise[0](x, blocksize=4096), blockwise[1])
    yield peer(
        f"nf4, {BLOCK}",
        lambda x: functional.quantize_nf4(x, blocksize=BLOCK),
        lambda q, s: functional.dequantize_nf4(q, s),
    )


def _hivemind(library: str) -> Iterator[Peer]:
    torch, compression = importlib.import_module("torch"), importlib.import_module("hivemind.compression")

    def peer(name: str, coder: Any) -> Peer:
        def encode(x: F32, spec: Spec) -> tuple[int, Any]:
            tensor = torch.from_numpy(x)
            message = coder.compress(tensor, compression.CompressionInfo.from_tensor(tensor))
            return message.ByteSize(), message

        def decode(sent: Any) -> F32:
            x: F32 = coder.extract(sent).numpy()
            return x

        return Peer(f"{library} {name}", library, encode, decode)

    yield peer("uniform 8 bit", compression.Uniform8BitQuantization())
    yield peer("quantile 8 bit", compression.Quantile8BitQuantization())
    yield peer("float16", compression.Float16Compression())


def _openfl(library: str) -> Iterator[Peer]:
    pipelines = importlib.import_module("openfl.pipelines")

    def peer(name: str, pipeline: Any, limit: int | None = None) -> Peer:
        def encode(x: F32, spec: Spec) -> tuple[int, Any]:
            layers = [pipeline.forward(x[start:stop]) for start, stop in groups(spec, "segment")]
            return sum(len(data) + sum(map(_metadata_size, about)) for data, about in layers), layers

        def decode(sent: Any) -> F32:
            # backward takes the metadata apart
            layers = [pipeline.backward(data, list(about)) for data, about in sent]
            return np.concatenate([np.asarray(layer, np.float32).reshape(-1) for layer in layers])

        return Peer(f"{library} {name}", library, encode, decode, True, limit)

    # No threshold: layers below it take a way that numpy 2.3 has cut off.
    yield peer("EDEN 4 bit", pipelines.EdenPipeline(n_bits=4, dim_threshold=0))
    yield peer("EDEN 2 bit", pipelines.EdenPipeline(n_bits=2, dim_threshold=0), 1 << 17)
    yield peer("STC 10 %", pipelines.STCPipeline(p_sparsity=0.1), 1 << 19)
    yield peer("k-means 6", pipelines.KCPipeline(n_clusters=6), 1 << 17)


def _metadata_size(about: dict[str, Any]) -> int:
    """Bytes of its numbers, 4 each, keys included."""
    return sum(8 * len(v) if isinstance(v, dict) else 4 * len(v) for v in about.values())


_LIBRARIES: Final = {"bitsandbytes": _bitsandbytes, "hivemind": _hivemind, "OpenFL": _openfl}
