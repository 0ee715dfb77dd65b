"""The result record of a run over seeds: what was measured, on what, with which settings."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graphkit.errors import CorruptFileError
from graphkit.recipes.schema import Published

FORMAT: Final = "graphkit-result/1"
_MAX_BYTES = 4 * 1024 * 1024

StdKind = Literal["unbiased", "population"]
SplitKind = Literal["official", "protocol", "rebuilt", "stand-in", "random", "test-selected"]


class SeedResult(BaseModel):
    """One training run: the figures at the epoch with the best validation metric."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    seed: int
    test: float
    valid: float
    best_epoch: int
    epochs: int
    seconds: float
    peak_memory_bytes: int | None = None
    skipped_batches: int = 0
    # By metric: epoch, valid and test at that metric's own best epoch.
    selected: dict[str, dict[str, float]] = {}


class MetricSummary(BaseModel):
    """Mean and spread over seeds by another metric, whose best epochs are its own."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    test_mean: float
    test_std: float | None
    valid_mean: float
    valid_std: float | None


class ResultRecord(BaseModel):
    """A method on a data set over several seeds; holds the fields of an OGB submission."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: Literal["graphkit-result/1"] = FORMAT
    recipe: str
    recipe_hash: str
    overrides: list[str]
    config: dict[str, Any]
    method_name: str
    dataset: str
    dataset_sha256: str | None
    task_type: str
    split_kind: SplitKind
    data_kind: Literal["official", "rebuilt", "generated"] = "official"
    metric: str
    maximize: bool
    evaluator: str
    std_kind: StdKind
    seeds: list[int] = Field(min_length=1)
    n_runs: int = Field(ge=1)
    per_seed: list[SeedResult] = Field(min_length=1)
    test_mean: float
    test_std: float | None
    valid_mean: float
    valid_std: float | None
    test_std_unbiased: float | None
    test_std_population: float
    other_metrics: dict[str, MetricSummary] = {}
    model: str
    model_args: dict[str, Any]
    num_params: int = Field(ge=0)
    external_data: bool = False
    official_implementation: bool = False
    wall_seconds: float
    peak_memory_bytes: int | None
    deterministic: bool
    environment: dict[str, Any]
    command: str
    created: str
    published: list[Published] = []
    size: Literal["cpu", "full"] = "full"

    def figures(self) -> dict[str, MetricSummary]:
        """Return the figures of the metric, and of those beside it that somebody published."""
        own = MetricSummary(
            test_mean=self.test_mean, test_std=self.test_std,
            valid_mean=self.valid_mean, valid_std=self.valid_std,
        )  # fmt: skip
        wanted = {entry.metric for entry in self.published if entry.split == "test"}
        beside = {name: f for name, f in self.other_metrics.items() if name in wanted}
        return {self.metric: own, **{k: f for k, f in beside.items() if k != self.metric}}

    def to_json(self) -> str:
        """Return the record as indented JSON, the same bytes for the same content."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def mean_and_std(values: list[float], kind: StdKind) -> tuple[float, float | None]:
    """Return mean and standard deviation.

    Args:
        values: one figure per seed.
        kind: ``unbiased`` divides by n-1 (OGB's rule; None for one value), ``population`` by n
            (LRGB's rule).

    Example:
        >>> round(mean_and_std([.70, .72, .74, .76], "unbiased")[1], 5)
        0.02582
        >>> round(mean_and_std([.70, .72, .74, .76], "population")[1], 5)
        0.02236
    """
    mean = statistics.fmean(values)
    if kind == "population":
        return mean, statistics.pstdev(values)
    return mean, statistics.stdev(values) if len(values) > 1 else None


def aggregate(results: list[SeedResult], std_kind: StdKind) -> dict[str, Any]:
    """Return the fields of a record that follow from its per-seed results."""
    results = sorted(results, key=lambda r: r.seed)
    test = [r.test for r in results]
    test_mean, test_std = mean_and_std(test, std_kind)
    valid_mean, valid_std = mean_and_std([r.valid for r in results], std_kind)
    others = {}
    for metric in results[0].selected:
        both = [
            mean_and_std([r.selected[metric][part] for r in results], std_kind)
            for part in ("test", "valid")
        ]
        others[metric] = MetricSummary(
            test_mean=both[0][0], test_std=both[0][1], valid_mean=both[1][0], valid_std=both[1][1]
        )
    peaks = [r.peak_memory_bytes for r in results if r.peak_memory_bytes is not None]
    return {
        "seeds": [r.seed for r in results],
        "n_runs": len(results),
        "per_seed": results,
        "test_mean": test_mean,
        "test_std": test_std,
        "valid_mean": valid_mean,
        "valid_std": valid_std,
        "test_std_unbiased": mean_and_std(test, "unbiased")[1],
        "test_std_population": mean_and_std(test, "population")[1],
        "other_metrics": others,
        "wall_seconds": math.fsum(r.seconds for r in results),
        "peak_memory_bytes": max(peaks) if peaks else None,
    }


def read_record(path: str | Path) -> ResultRecord:
    """Read a ``result.json`` of a run over seeds.

    Args:
        path: the file, or the run folder that holds it.

    Raises:
        CorruptFileError: missing, not JSON, of another format, or with a wrong or missing field.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "result.json"
        if not path.exists():
            raise CorruptFileError(
                f"{path.parent}: no result.json: no run has been finished here; the command that "
                "started it continues it"
            )
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise CorruptFileError(
            f"{path}: not a result record: format is {content.get('format')!r}, wanted {FORMAT!r}"
        )
    try:
        return ResultRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = "field is missing" if first["type"] == "missing" else first["msg"].lower()
        raise CorruptFileError(f"{path}: {key}: {reason}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object of at most 4 MiB.

    Raises:
        CorruptFileError: missing, too large, not UTF-8, not JSON, or not an object.
    """
    try:
        with open(path, "rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CorruptFileError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > _MAX_BYTES:
        raise CorruptFileError(f"{path}: larger than {_MAX_BYTES} bytes")
    try:
        content = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise CorruptFileError(f"{path}: a JSON object is wanted, got {type(content).__name__}")
    return content
