"""The model card: README.md with the front matter that model hubs read."""

from __future__ import annotations

from typing import Any

import yaml

from graphkit.results.record import ResultRecord
from graphkit.zoo.config import ZooConfig


def front_matter(config: ZooConfig) -> dict[str, Any]:
    """Return the card's metadata, the measured figures as a ``model-index`` among it."""
    name = config.recipe or config.architecture
    content: dict[str, Any] = {
        "license": config.license,
        "library_name": "graphkit",
        "pipeline_tag": "graph-ml",
        "tags": ["graphkit", "graph-machine-learning", config.architecture],
    }
    if config.dataset:
        content["datasets"] = [config.dataset]
    if config.metrics:
        content["metrics"] = sorted({m.name for m in config.metrics})
        content["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "graph-ml"},
                        "dataset": {"type": m.dataset, "name": m.dataset, "split": m.split},
                        "metrics": [{"type": m.name, "name": m.name, "value": m.value}],
                    }
                    for m in config.metrics
                ],
            }
        ]
    return content


def render_card(config: ZooConfig, record: ResultRecord | None = None) -> str:
    """Return the text of README.md.

    Args:
        config: what ``config.json`` says; the card repeats it for people.
        record: the run, for its mean over seeds and the machine it ran on.
    """
    head = yaml.safe_dump(front_matter(config), sort_keys=False, allow_unicode=True)
    title = config.recipe or config.architecture
    lines = ["---", head.rstrip(), "---", "", f"# {title}", ""]
    if config.description:
        lines += [config.description, ""]
    seed = f", seed {config.seed}" if config.seed is not None else ""
    lines += [
        f"`{config.architecture}` with {config.num_params:,} learnable parameters{seed}, "
        f"made by graphkit {config.library_version}.",
        "",
        "## Use",
        "",
        "```python",
        "from graphkit import zoo",
        'model = zoo.from_pretrained("path/to/this/folder")',
        "```",
        "",
    ]
    if config.metrics:
        lines += ["## Measured", "", "| data set | split | metric | value |", "|---|---|---|---|"]
        lines += [
            f"| {m.dataset} ({m.split_kind} split) | {m.split} | {m.name} | {m.value:.6f} |"
            for m in config.metrics
        ]
        lines += ["", "`graphkit zoo eval path/to/this/folder` measures it again.", ""]
    if record is not None:
        std = "" if record.test_std is None else f" ± {record.test_std:.4f}"
        seeds = f"{record.n_runs} seed{'s' * (record.n_runs > 1)}"
        lines += [
            f"Over {seeds} the recipe gives {record.metric} "
            f"{record.test_mean:.4f}{std} on the test split.",
            "",
        ]
    if config.command:
        lines += ["## Reproduce", "", "```", config.command, "```", ""]
    if config.paper_name:
        ids = f" ({', '.join(config.paper_ids)})" if config.paper_ids else ""
        lines += ["## Paper", "", f"{config.paper_name}{ids}", ""]
    if config.origin_url:
        lines += [f"Origin: {config.origin_url}", ""]
    return "\n".join(lines)
