"""Every Python example of the README and the documentation runs, page by page, as it stands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from typer.main import get_command

from graphkit import cli, recipes
from graphkit.plugins import create_plugin
from graphkit.results import build

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Return line number and text of each block of a language."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start(2)), found[2])
        for found in BLOCK.finditer(text)
        if found[1] == language
    ]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name_of)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GRAPHKIT_DATA", raising=False)
    lines: list[str] = []
    for first, text in blocks(page, "python"):
        lines += [""] * (first - len(lines)) + text.splitlines()
    script = tmp_path / f"{page.stem}.py"  # its line numbers are those of the page
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")], ids=name_of)
def test_commands_and_options_exist(page: Path) -> None:
    for _, text in blocks(page, "bash"):
        for line in text.splitlines():
            words = line.split("#")[0].split()
            if not words or words[0] != "graphkit":
                continue
            command = get_command(cli.app)
            options = {o for p in command.params for o in p.opts}
            for word in words[1:]:
                known = getattr(command, "commands", {})
                if word in known:
                    command = known[word]
                    options |= {o for p in command.params for o in p.opts}
                elif word.startswith("--"):
                    assert word in options, f"{name_of(page)}: {line}: no option {word}"
            assert command.callback or not hasattr(command, "commands"), f"no command: {line}"


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")], ids=name_of)
def test_recipes_and_overrides_of_commands_exist(page: Path) -> None:
    for _, text in blocks(page, "bash"):
        for line in text.splitlines():
            words = line.split("#")[0].split()
            if words[:2] != ["graphkit", "run"] or "/" not in words[2] or "<" in words[2]:
                continue
            if words[2].startswith(("runs/", "./")) or words[2].endswith(".yaml"):
                continue
            changes = [w for w in words[3:] if re.match(r"[a-z_.]+=", w)]
            build.check_names(recipes.apply_overrides(recipes.load(words[2]), changes))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "yaml")], ids=name_of)
def test_recipes_in_full_are_accepted(page: Path, tmp_path: Path) -> None:
    for _, text in blocks(page, "yaml"):
        if "\nmodel:" in text and text.startswith("dataset:"):
            path = tmp_path / "mine.yaml"
            path.write_text(text, encoding="utf-8")
            recipe = recipes.load(str(path))
            build.check_names(recipe)
            for plugin in recipe.plugins:
                create_plugin(plugin.name, **plugin.arguments)
