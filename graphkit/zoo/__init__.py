"""The model zoo: checkpoints as safetensors, JSON and a card; loading one executes nothing."""

from __future__ import annotations

from graphkit.zoo.checkpoint import load_config, save_pretrained
from graphkit.zoo.config import Metric, ZooConfig
from graphkit.zoo.evaluate import Evaluation, evaluate
from graphkit.zoo.hub import from_pretrained, push_to_hub
from graphkit.zoo.shelf import entries, save_run

__all__ = [
    "Evaluation", "Metric", "ZooConfig", "entries", "evaluate", "from_pretrained", "load_config",
    "push_to_hub", "save_pretrained", "save_run",
]  # fmt: skip
