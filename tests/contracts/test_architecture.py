"""Rules of the source tree: what may import what, and what may never be called."""

import ast
from pathlib import Path

import pytest

import graphkit

PACKAGE = Path(graphkit.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# The one reader of pickles: six allowed globals, after a checksum match.
PICKLE_READER = "data/restricted_pickle.py"
BASE = {"errors", "storage", ""}
OPS, NN, MODELS = {"ops"}, {"ops", "nn"}, {"ops", "nn", "models"}
DATA = {"ops", "data"}
# Names that another package's interface asks for.
NAMED_ELSEWHERE = {"compat/torch_scatter/utils.py"}
TASKS = MODELS | {"data", "tasks"}
# Part of the package -> the parts it may import. What is not named here is on top: cli, recipes,
# results, zoo, doctor.
MAY_IMPORT = {
    "errors": set(),
    "storage": {"errors"},
    "ops": OPS,
    "compat": OPS,
    "nn": NN,
    "acceleration": NN,
    "models": MODELS,
    "data": DATA,
    "tasks": TASKS,
    "plugins": {"ops", "nn", "plugins", "train.hooks"},
    "train": TASKS | {"plugins", "train"},
}
TOP = {"cli"}  # nobody below may import these


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def only_for_types(tree: ast.AST) -> set[ast.AST]:
    inside: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            inside.update(child for statement in node.body for child in ast.walk(statement))
    return inside


def imports(path: Path) -> set[str]:
    """Dotted names below ``graphkit`` that run-time code of a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = only_for_types(tree)
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: relative import; write the whole name"
            base = node.module or ""
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return {
        name.removeprefix("graphkit").lstrip(".")
        for name in found
        if name.split(".")[0] == "graphkit"
    }


def part_of(path: Path) -> str:
    return relative(path).split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_point_one_way(part):
    files = [path for path in FILES if part_of(path) == part]
    assert files, f"no file belongs to {part}"
    allowed = MAY_IMPORT[part] | BASE | {part}
    parts = {part_of(path) for path in FILES}
    for path in files:
        for name in imports(path):
            pieces = name.split(".")
            if pieces[0] not in parts or pieces[0] in BASE:
                continue
            fits = pieces[0] in allowed or any(
                ".".join(pieces[: i + 1]) in allowed for i in range(len(pieces))
            )
            # `from graphkit.train.hooks import X` also names its package on the way.
            fits = fits or any(rule.startswith(f"{name}.") for rule in allowed)
            assert fits, f"{relative(path)} imports graphkit.{name}; {part} knows {sorted(allowed)}"


def test_nobody_imports_the_command_line():
    for path in FILES:
        if part_of(path) not in TOP:
            assert not any(name.split(".")[0] in TOP for name in imports(path)), relative(path)


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_nothing_that_runs_what_it_reads(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    forbidden = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    if relative(path) != PICKLE_READER:
        assert not names & forbidden, names & forbidden
    for node, name, keywords in calls(path):
        place = f"{relative(path)}:{node.lineno}: {name}"
        assert name not in {"eval", "exec", "compile", "__import__", "os.system"}, place
        assert keywords.get("allow_pickle", "False") == "False", place
        assert keywords.get("shell", "False") == "False", place
        assert name not in {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"}, (
            place
        )
        if name == "torch.load" or name.endswith("fabric.load"):
            assert keywords.get("weights_only") == "True", f"{place} without weights_only=True"
        assert not name.endswith(("load_from_checkpoint", "fs.torch_load")), place


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_stay_readable(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 500, f"{len(lines)} lines: a file answers one question"
    if relative(path) not in NAMED_ELSEWHERE:
        assert path.stem not in {"utils", "helpers", "misc", "common"}
