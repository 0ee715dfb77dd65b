"""Embedding from the command line: files and data sets in, vectors and a picture out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from graphkit import cli
from graphkit.models import FastRP


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    return int(caught.value.code or 0)


def test_a_file_is_embedded_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    edges = 100 + rng.integers(40, size=(200, 2))
    path = tmp_path / "g.txt"
    path.write_text("".join(f"{u} {v}\n" for u, v in edges), encoding="ascii")
    out, picture = tmp_path / "z.npz", tmp_path / "map.png"
    command = ["embed", str(path), "--out", str(out), "--dim", "16", "--weights", "0,1,1"]
    assert call(*command, "--map", str(picture)) == 0
    assert "x 16" in capsys.readouterr().out
    saved = np.load(out)
    pairs = torch.from_numpy(np.searchsorted(saved["ids"], edges[edges[:, 0] != edges[:, 1]])).t()
    both = torch.cat([pairs, pairs.flip(0)], dim=1).unique(dim=1)
    wanted = FastRP(16, weights=[0, 1, 1]).fit_transform(both, num_nodes=len(saved["ids"]))
    np.testing.assert_allclose(saved["embedding"], wanted.numpy(), rtol=1e-4, atol=1e-4)
    assert picture.stat().st_size > 5000


def test_a_data_set_is_embedded(tmp_path: Path) -> None:
    out = tmp_path / "z.safetensors"
    assert call("embed", "demo-node", "--out", str(out), "--dim", "8", "--variant", "gds") == 0
    assert load_file(out)["embedding"].shape[1] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.txt"], "neither a file nor a data set"),
        (["demo-nod"], "did you mean 'demo-node'"),
        (["demo"], "not one graph"),
        (["demo-node", "--weights", "1,x"], "weights"),
        (["demo-node", "--dim", "0"], "dim"),
        (["demo-node", "--out", "z.csv"], "out"),
        (["demo-node", "--map", "m.doc"], "map: m.doc, wanted a name that ends in .png or .svg"),
        (["three.txt", "--map", "m.png"], "map: 3 nodes, wanted at least 5"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("three.txt").write_text("1 2\n2 3\n", encoding="ascii")
    assert call("embed", *arguments) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["three.txt"]  # before the work
