"""``graphkit doctor``: what is installed, what works, what is missing and how to get it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import graphkit

State = Literal["ok", "off", "bad"]

_REQUIRED = {
    "torch": "2.10",
    "torch_geometric": "2.7",
    "lightning-fabric": "2.6.1",
    "ogb": "1.3.6",
    "safetensors": "0.5",
}
_OPTIONAL = {
    "triton": "GPU kernels: pip install 'graphkit[gpu]'",
    "torch-scatter": "only a second opinion on the kernels: pip install torch-scatter",
    "huggingface_hub": "models from a hub: pip install huggingface_hub",
    "matplotlib": "training curves: pip install matplotlib",
}
_MIN_FREE = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the report: ``bad`` stops work, ``off`` only costs speed or comfort."""

    topic: str
    name: str
    state: State
    text: str


def examine() -> Iterator[Finding]:
    """Yield the findings, topic by topic."""
    yield from _versions()
    yield from _backends()
    yield from _machine()
    yield from _places()


def _number(text: str) -> tuple[int, ...]:
    parts = []
    for part in text.split("+")[0].split("."):
        digits = "".join(c for c in part if c.isdigit())
        parts.append(int(digits or 0))
    return tuple(parts)


def _versions() -> Iterator[Finding]:
    topic = "versions"
    yield Finding(
        topic, "graphkit", "ok", f"{graphkit.__version__} ({Path(graphkit.__file__).parent})"
    )
    python = platform.python_version()
    old = sys.version_info < (3, 10)
    yield Finding(
        topic, "python", "bad" if old else "ok", python + (", wanted 3.10" if old else "")
    )
    for name, wanted in _REQUIRED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(topic, name, "bad", f"missing: pip install '{name}>={wanted}'")
            continue
        old = _number(found) < _number(wanted)
        advice = f", too old: pip install -U '{name}>={wanted}'" if old else ""
        yield Finding(topic, name, "bad" if old else "ok", found + advice)
    for name, advice in _OPTIONAL.items():
        try:
            yield Finding(topic, name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding(topic, name, "off", f"not installed; {advice}")


def _backends() -> Iterator[Finding]:
    topic = "ops"
    try:
        from graphkit import ops

        found = ops.available()
    except Exception as error:  # whatever is wrong with an installation, the report goes on
        yield Finding(topic, "backends", "bad", f"graphkit.ops does not import: {error}")
        return
    for name, reason in found.items():
        yield Finding(topic, name, "off" if reason else "ok", reason or "available")


def _machine() -> Iterator[Finding]:
    topic = "machine"
    from graphkit.results.environment import cpu_name, total_memory_bytes, usable_cores
    from graphkit.results.progress import readable

    memory = readable(total_memory_bytes())
    yield Finding(topic, "cpu", "ok", f"{cpu_name()}, {usable_cores()} cores, {memory} memory")
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    yield Finding(topic, "threads", "ok", f"torch uses {torch.get_num_threads()}")
    yield _openmp()
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding(topic, "gpu", "ok", ", ".join(names))
    else:
        build = torch.version.cuda or "without CUDA"
        yield Finding(topic, "gpu", "off", f"none that torch can use (torch is built {build})")


def _openmp() -> Finding:
    if importlib.util.find_spec("threadpoolctl") is None:
        return Finding("machine", "openmp", "off", "pools not counted: pip install threadpoolctl")
    from threadpoolctl import threadpool_info

    pools = [p for p in threadpool_info() if p.get("user_api") == "openmp"]
    files = ", ".join(sorted(Path(p["filepath"]).name for p in pools))
    if len(pools) <= 1:
        return Finding("machine", "openmp", "ok", f"one pool ({files or 'not loaded'})")
    return Finding(
        "machine", "openmp", "off",
        f"{len(pools)} pools ({files}) compete for the cores; the kernels still give right results",
    )  # fmt: skip


def _places() -> Iterator[Finding]:
    topic = "folders"
    from graphkit.data.locate import cache_folder, data_roots
    from graphkit.results.progress import readable

    chosen = os.environ.get("GRAPHKIT_DATA")
    for root in data_roots():
        if root.is_dir():
            yield Finding(topic, "data", "ok", str(root))
        elif chosen and root == Path(chosen).expanduser():
            yield Finding(topic, "data", "bad", f"GRAPHKIT_DATA is {root}, which is no folder")
        else:
            yield Finding(topic, "data", "ok", f"{root} (made on first use)")
    if not chosen:
        yield Finding(
            topic, "GRAPHKIT_DATA", "off",
            "not set: data sets are looked for in the cache; `graphkit data show NAME` says how "
            "to get one, the demo sets are built in",
        )  # fmt: skip
    cache = cache_folder()
    existing = next(p for p in [cache, *cache.parents] if p.exists())
    if not os.access(existing, os.W_OK) or not existing.is_dir():
        yield Finding(
            topic,
            "cache",
            "bad",
            f"{cache} cannot be written; set GRAPHKIT_CACHE to another folder",
        )
        return
    free = shutil.disk_usage(existing).free
    state: State = "ok" if free > _MIN_FREE else "off"
    yield Finding(topic, "cache", state, f"{cache}, {readable(free)} free")
