"""What a recipe may say: the typed sections of the file, and the hash of what decides a run."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from graphkit.errors import RecipeError, nearest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def _not_bool(value: Any) -> Any:
    # bool is an int in Python: `max_epochs: yes` would otherwise train for one epoch.
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not true/false")
    return value


PositiveInt = Annotated[int, BeforeValidator(_not_bool), Field(ge=1, le=10**9)]
Fraction = Annotated[float, BeforeValidator(_not_bool), Field(ge=0, allow_inf_nan=False, le=1e9)]


class Section(BaseModel):
    """A mapping of the recipe that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Named(BaseModel):
    """A registered component and its keyword arguments, which the component checks itself."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(min_length=1)

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Dataset(Section):
    name: str
    transforms: list[Named] = []
    options: dict[str, Any] = {}

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("a data set name holds only letters, digits and . _ + -")
        return value


class Task(BaseModel):
    """Options of the task; the task checks them itself."""

    model_config = ConfigDict(extra="allow", frozen=True)


class OptimizerGroup(Section):
    """What a part of the model has of its own."""

    lr: Annotated[float, BeforeValidator(_not_bool), Field(ge=0, le=1e3, allow_inf_nan=False)]
    weight_decay: Fraction | None = None


class StartFrom(Section):
    """A finished run of another recipe, of the same seed, that this one begins with."""

    recipe: str = Field(min_length=3)
    take: Literal["weights", "node_embeddings"] = "weights"


class Optimizer(Section):
    name: str = "Adam"
    lr: Annotated[float, BeforeValidator(_not_bool), Field(gt=0, le=1e3, allow_inf_nan=False)] = (
        1e-3
    )
    weight_decay: Fraction = 0.0
    betas: tuple[Fraction, Fraction] | None = None
    eps: Fraction | None = None
    momentum: Fraction | None = None
    groups: dict[str, OptimizerGroup] = {}


class Evaluations(Section):
    """Seldom at first, after every epoch later: see ``graphkit.train.schedule``."""

    every: PositiveInt = 1
    start: PositiveInt | None = None
    until: PositiveInt | None = None


class Training(Section):
    max_epochs: PositiveInt = 100
    batch_size: PositiveInt | None = None
    accumulate: PositiveInt = 1
    eval_every: PositiveInt | Evaluations = 1
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: PositiveInt = 1
    checkpoint_seconds: Fraction = 30.0


class Published(Section):
    """A figure somebody else reported, and where it stands."""

    label: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    value: Annotated[float, Field(allow_inf_nan=False)]
    std: Fraction | None = None
    split: Literal["train", "valid", "test"] = "test"
    params: PositiveInt | None = None
    source: str = Field(min_length=4)
    confirmed: bool = True
    external_data: bool = False


class Recipe(Section):
    """One run of one model on one data set, with the published figure to compare with.

    Example:
        >>> from graphkit import recipes
        >>> recipes.load("demo/gcn").dataset.name
        'demo'
    """

    name: str
    dataset: Dataset
    model: Named
    task: Task = Task()
    optimizer: Optimizer = Optimizer()
    trainer: Training = Training()
    plugins: list[Named] = []
    start_from: StartFrom | None = None
    seeds: PositiveInt | list[Annotated[int, BeforeValidator(_not_bool), Field(ge=0)]] = 1
    published: list[Published] = []
    num_params: PositiveInt | None = None
    size: Literal["cpu", "full"] = "full"
    note: str = ""

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: int | list[int]) -> int | list[int]:
        if isinstance(value, list) and (not value or len(set(value)) != len(value)):
            raise ValueError("seeds must be a count or a list of distinct numbers, not empty")
        return value

    def seed_list(self, count: int | None = None) -> list[int]:
        """Return the seeds to run: ``0..count-1`` when a count is given, else the recipe's own."""
        if count is not None:
            return list(range(count))
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)

    def deciding(self) -> dict[str, Any]:
        """Return what decides the figures of a run; seeds, notes and published figures do not."""
        content = self.model_dump(
            mode="json", include={"dataset", "model", "task", "optimizer", "trainer", "plugins"}
        )
        # How often a checkpoint is written changes nothing that is measured.
        content["trainer"].pop("checkpoint_seconds")
        # Left out where they say nothing, so that hashes of older runs stay what they were.
        if self.start_from is not None:
            content["start_from"] = self.start_from.model_dump(mode="json")
        groups = content["optimizer"].pop("groups")
        if groups:
            content["optimizer"]["groups"] = {
                part: {k: v for k, v in group.items() if v is not None}
                for part, group in groups.items()
            }
        return content

    @property
    def hash(self) -> str:
        """SHA-256 over the canonical JSON of :meth:`deciding`."""
        text = json.dumps(self.deciding(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def known_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """List the dotted keys that the schema itself names."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(f"{prefix}{name}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def suggest(key: str) -> str:
    """Name the schema key nearest to ``key``: a short ``lr`` finds ``optimizer.lr``."""
    keys = [k for k in known_keys() if k != "name"]
    tail = [k for k in keys if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1] and k != key]
    return f"; did you mean {tail[0]!r}?" if tail else nearest(key, keys)


def validate(content: dict[str, Any], name: str, where: str) -> Recipe:
    """Turn a parsed YAML mapping into a recipe.

    Args:
        content: the mapping as read, overrides applied.
        name: ``<dataset>/<model>``.
        where: what to call the source in a message (a file, or the command line).

    Raises:
        RecipeError: names the first key that is unknown or has a wrong value.
    """
    if "name" in content:
        raise RecipeError(f"{where}: unknown key 'name': a recipe is named by its file")
    _refuse_not_finite(content, where)
    try:
        return Recipe.model_validate({**content, "name": name})
    except ValidationError as error:
        raise RecipeError(_explain(error, where)) from None


def _refuse_not_finite(value: Any, where: str, key: str = "") -> None:
    if isinstance(value, dict):
        for k, v in value.items():
            _refuse_not_finite(v, where, f"{key}.{k}" if key else str(k))
    elif isinstance(value, list):
        for index, v in enumerate(value):
            _refuse_not_finite(v, where, f"{key}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{where}: key {key!r}: got {value}, a finite number is wanted")
    elif not isinstance(value, str | int | float | bool | None):
        raise RecipeError(
            f"{where}: key {key!r}: got {type(value).__name__} {value}, wanted a number, a text, "
            "true/false, a list or a mapping; put quotes round a text that looks like a date"
        )


def _explain(error: ValidationError, where: str) -> str:
    problems = error.errors(include_url=False)
    # A misspelt key is the cause of the "missing" ones that pydantic lists beside it.
    problems.sort(key=lambda p: p["type"] != "extra_forbidden")
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"] if not str(part).startswith("list["))
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}{suggest(key)}"
    if first["type"] == "missing":
        return f"{where}: key {key!r} is missing"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{where}: key {key!r}: got {first['input']!r}: {reason[0].lower()}{reason[1:]}"
