"""Read a YAML file that may come from anybody: plain data only, small, no anchors, no repeats."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from graphkit.errors import RecipeError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 12

# YAML 1.1 reads `1e-3` as text because it wants a point and a sign; people write it as a number.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one mapping from a YAML file.

    Raises:
        RecipeError: missing, larger than 64 KiB, not UTF-8, not YAML, or not a mapping.
    """
    try:
        with open(path, "rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{path}: more than {MAX_BYTES} bytes; a recipe is a small YAML file")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start})") from None
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a mapping of keys is wanted, got {type(content).__name__}")
    return content


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text into dicts, lists and scalars.

    Aliases are refused, so a few lines cannot unfold into gigabytes; a key given twice is refused,
    because the first value would be lost without a word.

    Args:
        text: the YAML document.
        where: what to call it in a message.

    Raises:
        RecipeError: names the line where there is one.
    """
    try:
        _check_events(text, where)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _check_nodes(root, where)
        return _numbers(yaml.safe_load(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{where}{line}: not plain YAML: {problem}") from None
    except (ValueError, OverflowError) as error:  # `2026-99-99` is a date to YAML, and no date
        raise RecipeError(f"{where}: {error}") from None


def _check_events(text: str, where: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else "?"
            raise RecipeError(
                f"{where}, line {line}: anchors and aliases are not taken in recipes; "
                "write the value out"
            )
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise RecipeError(f"{where}: nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            depth -= 1


def _check_nodes(node: yaml.Node, where: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{where}, line {key.start_mark.line + 1}: a key must be a word")
            if key.value in seen:
                raise RecipeError(
                    f"{where}, line {key.start_mark.line + 1}: key {key.value!r} is given twice"
                )
            seen.add(key.value)
            _check_nodes(value, where)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_nodes(value, where)


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return value
