"""Find recipes by name: those that ship with the package, and a user's own YAML files."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

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


def load(name: str) -> Recipe:
    """Read and check one recipe.

    Args:
        name: ``<dataset>/<model>``, or the path of a YAML file, which then is named after its
            data set and file.

    Raises:
        RecipeError: no such recipe, or the file is not one.

    Example:
        >>> load("ogbg-molhiv/gin_vn").published[0].value
        0.7707
    """
    path = path_of(name)
    content = read_yaml(path)
    if path.parent.parent == _ROOT:
        return validate(content, f"{path.parent.name}/{path.stem}", str(path))
    section = content.get("dataset")
    dataset = section.get("name") if isinstance(section, dict) else None
    if not isinstance(dataset, str) or not NAME.fullmatch(path.stem):
        raise RecipeError(f"{path}: needs dataset.name and a file name of letters, digits, . _ + -")
    return validate(content, f"{dataset}/{path.stem}", str(path))
