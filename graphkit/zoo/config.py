"""``config.json`` of a zoo folder: which model, with which arguments, what it was measured on."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from graphkit.recipes.schema import NAME

FORMAT: Final = "graphkit-model/1"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"


class Metric(BaseModel):
    """A measured figure of exactly these weights."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    dataset: str = Field(pattern=rf"^{NAME.pattern}$")
    split: Literal["train", "valid", "test"]
    name: str
    value: float
    split_kind: str = "official"
    maximize: bool = True


class ZooConfig(BaseModel):
    """Everything but the weights; a field that is not known is refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())

    format: Literal["graphkit-model/1"] = FORMAT
    library: Literal["graphkit"] = "graphkit"
    library_version: str
    architecture: str
    model_args: dict[str, Any]
    num_params: int = Field(ge=0)
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    dataset: str | None = None
    recipe: str | None = None
    recipe_hash: str | None = None
    overrides: list[str] = []
    run: dict[str, Any] = {}
    seed: int | None = None
    command: str | None = None
    metrics: list[Metric] = []
    license: str = "mit"
    description: str = ""
    paper_name: str | None = None
    paper_ids: list[str] = []
    origin_url: str | None = None

    def to_json(self) -> str:
        """Return indented JSON, the same bytes for the same content."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
