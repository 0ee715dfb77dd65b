"""Pictures of link prediction: models beside each other, and hits by the degree of a pair."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import CorruptFileError
from graphkit.results.record import ResultRecord, read_json, read_record
from graphkit.storage import atomic_path, atomic_write_text

DEGREES = "degrees.json"
_FORMAT = "graphkit-link-degrees/1"


def degree_hits(positive: Tensor, negative: Tensor, smaller: Tensor, k: int) -> dict[str, Any]:
    """Count true links and hits by the smaller degree of their two nodes, in bins of powers of 2.

    Args:
        positive: scores of true links.
        negative: scores of false links.
        smaller: degree in the graph that the model saw, of the end with fewer neighbours.
        k: of Hits@K.

    Shapes:
        positive, smaller: ``[P]``; negative: ``[M]``

    Example:
        >>> scores, degrees = torch.tensor([2.0, 0.0]), torch.tensor([0, 5])
        >>> found = degree_hits(scores, torch.tensor([1.0]), degrees, k=1)
        >>> found["from"], found["links"], found["hits"]
        ([0, 1, 2, 4], [1, 0, 0, 1], [1, 0, 0, 0])
    """
    enough = negative.numel() >= k
    hit = positive > negative.topk(k).values[-1] if enough else torch.ones_like(positive).bool()
    # 0, 1, 2-3, 4-7, ...
    place = torch.where(
        smaller > 0, smaller.clamp(min=1).to(torch.float64).log2().floor().long() + 1, 0
    )
    bins = int(place.max()) + 1
    return {
        "format": _FORMAT,
        "k": k,
        "from": [0] + [2**n for n in range(bins - 1)],
        "links": torch.bincount(place, minlength=bins).tolist(),
        "hits": torch.bincount(place[hit], minlength=bins).tolist(),
    }


def write_degrees(model: Any, task: Any, target: Path) -> None:
    """Score the test links once more with the weights chosen and write their hits by degree.

    Sets that are not judged by Hits@K get Hits@20; those where each link is ranked among false
    links of its own get no file.
    """
    batch = next(iter(task.loader("test")))
    if batch.ranked:
        return
    device = next(model.parameters(), torch.empty(0)).device
    model.eval()
    with torch.no_grad():
        scores = task.apply(model, batch.to(device)).float().cpu()
    degree = task.graph("test").degree.long()
    smaller = torch.minimum(degree[batch.positive[0]], degree[batch.positive[1]])
    count = batch.num_links
    k = int(task.metric.removeprefix("hits@")) if task.metric.startswith("hits@") else 20
    found = degree_hits(scores[:count], scores[count:], smaller, k)
    atomic_write_text(target, json.dumps(found) + "\n")


def draw_degrees(folder: Path, target: Path) -> bool:
    """Draw the share of hits by degree, mean and spread over the seeds of a run folder.

    Returns:
        Whether there was anything to draw.
    """
    found = [read_json(path) for path in sorted(folder.glob(f"[0-9]*/{DEGREES}"))]
    found = [one for one in found if one.get("format") == _FORMAT]
    if not found:
        return False
    bins = max(len(one["from"]) for one in found)
    rates: list[list[float]] = [[] for _ in range(bins)]
    links = [0] * bins
    for one in found:
        for place, (count, hits) in enumerate(zip(one["links"], one["hits"], strict=True)):
            links[place] += count
            if count:
                rates[place].append(hits / count)
    shown = [place for place in range(bins) if rates[place]]
    names = ["0"] + [_span(2**n) for n in range(bins - 1)]

    def paint(axes: Any) -> None:
        mean = [math.fsum(rates[p]) / len(rates[p]) for p in shown]
        axes.bar(
            range(len(shown)),
            mean,
            capsize=3,
            alpha=0.85,
            yerr=[_spread(rates[p]) for p in shown] if len(found) > 1 else None,
        )
        labels = [f"{names[p]}\n{links[p] // len(found)}" for p in shown]
        axes.set_xticks(range(len(shown)), labels, fontsize="small")
        axes.set_xlabel("smaller degree of the pair; test links per run below")
        axes.set_ylabel(f"share of hits (Hits@{found[0]['k']})")
        axes.set_ylim(0, 1.05)

    _save(target, f"{folder.parent.name}/{folder.name}", max(4.5, 0.7 * len(shown) + 2), paint)
    return True


def _span(low: int) -> str:
    return str(low) if low == 1 else f"{low}-{2 * low - 1}"


def _spread(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))


def draw_models(folder: Path, target: Path) -> bool:
    """Draw all finished runs on one data set beside each other: mean and spread over seeds.

    Args:
        folder: ``runs/<dataset>``.
        target: a ``.png``.

    Returns:
        Whether there was anything to draw.
    """
    records: list[ResultRecord] = []
    for path in sorted(folder.glob("*/result.json")):
        try:
            records.append(read_record(path))
        except CorruptFileError:  # another program's file, or one of an older form
            continue
    if not records:
        return False
    main = records[-1].metric
    records = [record for record in records if record.metric == main]
    others = {key for record in records for key in record.other_metrics}
    metrics = sorted(others | {main}, key=lambda key: (len(key), key))

    def paint(axes: Any) -> None:
        width = 0.8 / len(metrics)
        for number, metric in enumerate(metrics):
            both = [_mean_and_spread(record, metric) for record in records]
            where = [n + (number - (len(metrics) - 1) / 2) * width for n in range(len(records))]
            axes.bar(
                where, [mean for mean, _ in both], width, yerr=[std for _, std in both], capsize=2,
                label=metric,
            )  # fmt: skip
        labels = [f"{r.recipe.split('/')[1]}\n{r.n_runs} runs" for r in records]
        axes.set_xticks(range(len(records)), labels, fontsize="small")
        axes.set_ylabel("test")
        axes.set_ylim(0, 1.05)
        axes.legend(fontsize="small", frameon=False)

    _save(target, folder.name, max(4.5, 1.3 * len(records) + 1.5), paint)
    return True


def _mean_and_spread(record: ResultRecord, metric: str) -> tuple[float, float]:
    if metric == record.metric:
        return record.test_mean, record.test_std or 0.0
    other = record.other_metrics.get(metric)
    return (math.nan, 0.0) if other is None else (other.test_mean, other.test_std or 0.0)


def _save(target: Path, title: str, width: float, paint: Callable[[Any], None]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(1, 1, 1)
    paint(axes)
    axes.set_title(title, fontsize="medium")
    axes.grid(axis="y", alpha=0.25)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
