"""Find recipes by name: those that ship with the package, and a user's own YAML files."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from graphkit.errors import RecipeError, nearest
from graphkit.recipes.reading import read_yaml
from graphkit.recipes.schema import NAME, Recipe, validate

_ROOT = Path(__file__).parent


def names(pattern: str = "*") -> list[str]:
    """List the names of the shipped recipes, ``<dataset>/<model>[-variant]``.

    Args:
        pattern: shell-style; a word without ``*`` matches anywhere in the name.

    Example:
        >>> names("demo/*")
        ['demo/gcn', 'demo/mpnn_vn']
    """
    found = sorted(f"{p.parent.name}/{p.stem}" for p in _ROOT.glob("*/*.yaml"))
    if not any(c in pattern for c in "*?["):
        pattern = f"*{pattern}*"
    return [name for name in found if fnmatchcase(name, pattern)]


def path_of(name: str) -> Path:
    """Return the file of a recipe given by name, or by the path of a YAML file.

    Raises:
        RecipeError: there is no such recipe.
    """
    name, _ = _split(name)
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    dataset, slash, model = name.partition("/")
    if slash and NAME.fullmatch(dataset) and NAME.fullmatch(model):
        path = _ROOT / dataset / f"{model}.yaml"
        if path.is_file():
            return path
    known = names()
    of_dataset = [k for k in known if k.startswith(f"{dataset}/")]
    hint = nearest(name, known)
    if not hint and of_dataset:
        hint = f"; for {dataset} there are: " + ", ".join(k.split("/")[1] for k in of_dataset)
    raise RecipeError(f"no recipe {name!r}{hint}; `graphkit recipes list` shows all {len(known)}")


def _split(name: str) -> tuple[str, str]:
    """The name of a file's recipe, and that of its variant."""
    if name.endswith((".yaml", ".yml")):
        return name, ""
    base, _, variant = name.rpartition("@")
    return (base, variant) if base else (name, "")


def variants(name: str) -> list[str]:
    """List the variants of a recipe, each ``<dataset>/<model>@<variant>``, as its file orders them.

    Raises:
        RecipeError: no such recipe, or the file is not one.

    Example:
        >>> variants("robust-cora/stable")[:2]
        ['robust-cora/stable@0', 'robust-cora/stable@10']
    """
    base, _ = _split(name)
    path = path_of(base)
    return [f"{base}@{key}" for key in _take_variants(read_yaml(path), path)]


def _take_variants(content: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    found = content.pop("variants", None)
    if found is None:
        return {}
    good = isinstance(found, dict) and all(
        NAME.fullmatch(key) and isinstance(value, dict) for key, value in found.items()
    )
    if not good:
        raise RecipeError(f"{path}: key 'variants': a mapping of names to changed keys is wanted")
    return dict(found)


def _merged(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    return {**base, **{key: _merged(base.get(key), value) for key, value in change.items()}}


def load(name: str) -> Recipe:
    """Read and check one recipe.

    A file may hold ``variants``: names with the keys that differ, such as another strength of an
    attack. The published figures above them are not theirs.

    Args:
        name: ``<dataset>/<model>``, ``<dataset>/<model>@<variant>``, or the path of a YAML file,
            which then is named after its data set and file.

    Raises:
        RecipeError: no such recipe or variant, or the file is not one.

    Example:
        >>> load("ogbg-molhiv/gin_vn").published[0].value
        0.7707
    """
    path = path_of(name)
    content = read_yaml(path)
    known = _take_variants(content, path)
    _, variant = _split(name)
    end = ""
    if variant:
        if variant not in known:
            choices = ", ".join(known) or "none"
            raise RecipeError(f"{path}: no variant {variant!r}; there are: {choices}")
        content.pop("published", None)
        content = _merged(content, known[variant])
        end = f"@{variant}"
    if path.parent.parent == _ROOT:
        return validate(content, f"{path.parent.name}/{path.stem}{end}", str(path))
    section = content.get("dataset")
    dataset = section.get("name") if isinstance(section, dict) else None
    if not isinstance(dataset, str) or not NAME.fullmatch(path.stem):
        raise RecipeError(f"{path}: needs dataset.name and a file name of letters, digits, . _ + -")
    return validate(content, f"{dataset}/{path.stem}{end}", str(path))
