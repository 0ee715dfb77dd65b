"""How time and memory are taken; both are what a user of the process would see.

Time: wall clock, in blocks as a training loop would run: a block of our steps, one of the peer's,
and both again. The first step of a block is not counted: it pays for memory that the other side
has just given back, which a loop of one library's steps never does. Median and interquartile range
over the counted steps of both blocks.

Memory: a process of its own per side. The first step on the full input is measured, caches that it
builds included (graphkit's sorted view of the graph counts as extra). Extra is the peak of the
resident set during the step, less the resident set just before (code loaded, inputs made), less
the bytes of what the step returns. The kernel's own high-water mark (VmHWM) is reset first by
writing 5 to /proc/self/clear_refs; where that is refused, a thread samples /proc/self/statm every
half millisecond, which can only miss short peaks.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.cases import Pair, Work
from graphkit.ops import empty_cache

SECONDS_PER_SIDE = 12.0
REPEATS = (4, 16)


@dataclass
class Timing:
    """Milliseconds."""

    median: float
    quartiles: tuple[float, float]
    fastest: float
    repeats: int


def time_pair(pair: Pair, repeats: int | None = None) -> dict[str, Any]:
    """Time both sides in blocks; ``ratio`` is the peer's median over ours."""
    outputs, first = [], []
    for step in (pair.ours, pair.peer):
        pair.prepare()
        begin = time.perf_counter()
        outputs.append(step())
        first.append(time.perf_counter() - begin)
    difference = compare(*outputs, pair.tolerance) if pair.tolerance is not None else None
    del outputs
    if repeats is None:
        repeats = int(min(max(SECONDS_PER_SIDE / max(first), REPEATS[0]), REPEATS[1]))
        if max(first) < 0.1:
            repeats = 60
    taken: tuple[list[float], list[float]] = ([], [])
    for size in (repeats // 2, repeats - repeats // 2):
        for times, step in zip(taken, (pair.ours, pair.peer), strict=True):
            for counted in (False, *[True] * size):
                pair.prepare()
                begin = time.perf_counter()
                result = step()
                if counted:
                    times.append((time.perf_counter() - begin) * 1e3)
                del result  # freeing is not part of the step
    ours, peer = (_summary(times) for times in taken)
    return {
        "ours_ms": asdict(ours),
        "peer_ms": asdict(peer),
        "ratio": peer.median / ours.median,
        "largest_difference": difference,
    }


def compare(ours: Any, peer: Any, tolerance: float) -> float:
    """Largest difference, relative to the size of the peer's values; too much is an error.

    Values of a tensor that is all but zero beside the others (a bias that softmax cancels) are
    rounding on both sides, and are measured against the others' size.
    """
    peaks = [float(b.abs().max()) if b.numel() else 0.0 for b in peer]
    floor = max(1e-6, 1e-4 * max(peaks, default=0.0))
    largest = 0.0
    for a, b, peak in zip(ours, peer, peaks, strict=True):
        if a.numel():
            largest = max(largest, float((a - b).abs().max()) / max(peak, floor))
    if largest > tolerance:
        raise RuntimeError(
            f"the two sides differ by {largest:.2e}, at most {tolerance} is rounding"
        )
    return largest


def _summary(times: list[float]) -> Timing:
    low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
    return Timing(statistics.median(times), (low, high), min(times), len(times))


def extra_memory(step: Callable[[], Any], prepare: Callable[[], None]) -> int:
    """Bytes; see the head of this file."""
    prepare()
    gc.collect()
    _give_back_free_memory()
    before = resident()
    with PeakMemory() as peak:
        result = step()
    outputs = result if isinstance(result, tuple) else ()  # a training step returns its loss
    returned = sum(t.numel() * t.element_size() for t in outputs if isinstance(t, torch.Tensor))
    return max(0, peak.bytes - before - returned)


class PeakMemory:
    """Peak of the resident set while the block runs."""

    def __enter__(self) -> PeakMemory:
        self.bytes = 0
        try:
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")
            self._sampler = None
        except OSError:
            self._stop = threading.Event()
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._sampler is None:
            self.bytes = _status("VmHWM")
        else:
            self._stop.set()
            self._sampler.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.0005):
            self.bytes = max(self.bytes, resident())


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _give_back_free_memory() -> None:
    empty_cache()  # blocks kept from making the inputs would hide what the step takes
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # another C library: the baseline is then a little high for both sides


def bandwidth(step: Callable[[], Any], bytes_moved: float, repeats: int = 7) -> float:
    """GB/s of the median run."""
    return bytes_moved / _timed(step, repeats).median / 1e6


def _timed(step: Callable[[], Any], repeats: int) -> Timing:
    step()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = step()
        times.append((time.perf_counter() - begin) * 1e3)
        del result  # freeing is not part of the step
    return _summary(times)


def copy_bandwidth(scale: float) -> float:
    """GB/s of a large copy, read and write counted."""
    # Written before it is read: pages that nobody has touched are one page of zeros.
    large = torch.ones(max(1_000_000, int(250_000_000 * min(scale, 1.0))))
    target = torch.empty_like(large)
    return bandwidth(lambda: target.copy_(large), 2 * large.numel() * large.element_size())


def rate_of(work: Work, scale: float, repeats: int | None = None) -> dict[str, Any]:
    """Units per second of the median step; of bytes also the share of what a copy moves here."""
    begin = time.perf_counter()
    work.step()
    first = time.perf_counter() - begin
    if repeats is None:
        repeats = int(min(max(SECONDS_PER_SIDE / 2 / max(first, 1e-9), 5), 60))
    timing = _timed(work.step, repeats)
    found = {
        "ms": asdict(timing),
        "amount": work.amount,
        "unit": work.unit,
        "per_second": work.amount / timing.median * 1e3,
        "threads": torch.get_num_threads(),
    }
    if work.unit == "bytes":
        found["copy_per_second"] = copy_bandwidth(scale) * 1e9
        found["share"] = found["per_second"] / found["copy_per_second"]
    return found
