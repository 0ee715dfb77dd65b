"""Zoo folders: what is saved comes back to the bit; what is hostile is refused at once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load, save

from graphkit import data, zoo
from graphkit.errors import CheckpointError, StorageError
from graphkit.models import create_model
from graphkit.zoo.config import Metric

ARGS: dict[str, Any] = {
    "conv": "ogb_gin", "virtual_node": "ogb", "hidden_channels": 8, "num_layers": 2,
}  # fmt: skip


def make_model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return create_model("mpnn_vn", **data.load("demo").model_args(), **ARGS)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    metric = Metric(dataset="demo", split="test", name="rocauc", value=0.75)
    return zoo.save_pretrained(make_model(), tmp_path_factory.mktemp("zoo") / "m", metrics=[metric])


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    target = tmp_path / "m"
    target.mkdir()
    for path in original.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def resealed(folder: Path) -> None:
    """Give config.json the checksum of the weights as they are: the attacker can do that too."""
    import hashlib

    config = json.loads((folder / "config.json").read_text())
    raw = (folder / "model.safetensors").read_bytes()
    config["weights_sha256"] = hashlib.sha256(raw).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))


def refused(path: Path, *words: str) -> str:
    torch.manual_seed(0)
    start = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        zoo.from_pretrained(path)
    assert time.process_time() - start < 1
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


def test_model_comes_back_to_the_bit(folder: Path) -> None:
    model, again = make_model().eval(), zoo.from_pretrained(folder)
    assert not again.training
    for (name, a), (other, b) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b)
    batch = next(iter(data.load("demo").loader("test", batch_size=16)))
    with torch.no_grad():
        assert torch.equal(model(batch), again(batch))


def test_loading_leaves_the_random_stream_alone(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    zoo.from_pretrained(folder)
    assert torch.equal(torch.rand(3), expected)


def test_saving_over_the_folder_it_came_from(folder: Path) -> None:
    model = zoo.from_pretrained(folder)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    zoo.save_pretrained(model, folder)
    again = zoo.from_pretrained(folder)
    assert torch.equal(next(model.parameters()), next(again.parameters()))


def test_same_model_same_bytes(folder: Path, tmp_path: Path) -> None:
    zoo.save_pretrained(make_model(), tmp_path / "again", metrics=zoo.load_config(folder).metrics)
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_card_says_what_config_says(folder: Path) -> None:
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    config = zoo.load_config(folder)
    assert card["library_name"] == "graphkit"
    result = card["model-index"][0]["results"][0]
    assert result["metrics"][0]["value"] == config.metrics[0].value
    assert result["dataset"] == {"type": "demo", "name": "demo", "split": "test"}
    assert f"{config.num_params:,}" in body


def test_unknown_words_about_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="licence"):
        zoo.save_pretrained(make_model(), tmp_path / "m", licence="mit")
    with pytest.raises(CheckpointError, match="Linear has no name and config"):
        zoo.save_pretrained(torch.nn.Linear(1, 1), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        zoo.save_pretrained(make_model(), tmp_path / "file" / "m")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize(
    "damage", ["missing", "empty", "one byte", "folder", "link", "pipe", "zeros"]
)
def test_damaged_file_is_refused(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    original = path.read_bytes()
    path.unlink()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "one byte":
        path.write_bytes(b"{")
    elif damage == "folder":
        path.mkdir()
    elif damage == "link":
        (folder / "elsewhere").write_bytes(original)
        path.symlink_to(folder / "elsewhere")
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "zeros":
        path.write_bytes(bytes(len(original)))
    refused(folder, name)


def test_truncated_weights_are_refused_at_twenty_places(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    for cut in range(20):
        path.write_bytes(raw[: len(raw) * cut // 20])
        resealed(folder)
        refused(folder, "model.safetensors")


def test_flipped_bytes_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    generator = random.Random(0)
    for _ in range(100):
        changed = bytearray(raw)
        changed[generator.randrange(len(raw))] ^= 1 << generator.randrange(8)
        path.write_bytes(changed)
        refused(folder, "model.safetensors")


def test_flipped_bytes_of_the_configuration_never_execute_or_crash(folder: Path) -> None:
    path = folder / "config.json"
    raw = path.read_bytes()
    generator = random.Random(1)
    for _ in range(60):
        changed = bytearray(raw)
        changed[generator.randrange(len(raw))] ^= 1 << generator.randrange(8)
        path.write_bytes(changed)
        with contextlib.suppress(CheckpointError):
            zoo.from_pretrained(folder)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_header_length(folder: Path, length: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    resealed(folder)
    refused(folder, "model.safetensors")


def _edit_header(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        path = folder / "model.safetensors"
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
        resealed(folder)

    return attack


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return next(v for k, v in header.items() if k != "__metadata__")


HEADERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "huge shape": lambda h: _first(h).update(shape=[2**40, 2**20]),
    "negative shape": lambda h: _first(h).update(shape=[-1]),
    "shape is text": lambda h: _first(h).update(shape="many"),
    "unknown type": lambda h: _first(h).update(dtype="OBJ"),
    "overlap": lambda h: _first(h).update(data_offsets=[0, 4]),
    "backwards": lambda h: _first(h).update(data_offsets=[8, 0]),
    "far away": lambda h: _first(h).update(data_offsets=[2**60, 2**61]),
    "no offsets": lambda h: _first(h).pop("data_offsets"),
    "extra tensor": lambda h: h.update(
        extra={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    ),
    "entry is a list": lambda h: h.update({list(h)[-1]: [1, 2]}),
}


@pytest.mark.parametrize("case", HEADERS)
def test_hostile_header(folder: Path, case: str) -> None:
    _edit_header(HEADERS[case])(folder)
    refused(folder, "model.safetensors")


def test_duplicate_names_in_the_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    name = next(k for k in header if k != "__metadata__")
    entry = json.dumps(header[name])
    text = raw[8 : 8 + length].decode().rstrip()[:-1] + f', "{name}": {entry}}}'
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + raw[8 + length :])
    resealed(folder)
    refused(folder, "model.safetensors")


def _weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Any:
    def attack(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(save(change(load(path.read_bytes()))))
        resealed(folder)

    return attack


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(iter(state))
    return {("other" if k == name else k): v for k, v in state.items()}


def test_weights_of_another_model(folder: Path) -> None:
    _weights(_renamed)(folder)
    refused(folder, "weights do not fit", "1 missing, 1 foreign")


def test_weights_of_another_width(folder: Path) -> None:
    _weights(lambda s: {k: torch.cat([v, v]) if v.dim() else v for k, v in s.items()})(folder)
    refused(folder, "shape", "wants")


def test_text_where_weights_should_be(folder: Path) -> None:
    import pickle

    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": os.system}))
    resealed(folder)
    refused(folder, "model.safetensors")


def test_weights_that_are_not_numbers_warn(folder: Path) -> None:
    def poison(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = next(k for k, v in state.items() if v.is_floating_point())
        state[name].view(-1)[0] = float("nan")
        return state

    _weights(poison)(folder)
    with pytest.warns(UserWarning, match="1 tensors hold NaN"):
        zoo.from_pretrained(folder)


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown architecture": ({"architecture": "mpnn_nv"}, "did you mean 'mpnn_vn'"),
    "another library": ({"library": "other"}, "library"),
    "another format": ({"format": "graphkit-model/9"}, "not a graphkit checkpoint"),
    "unknown key": ({"auto_map": {"AutoModel": "evil.py"}}, "auto_map"),
    "arguments are a list": ({"model_args": [1]}, "model_args"),
    "unknown argument": ({"model_args": {"evil": 1}}, "model_args"),
    "a thousand million layers": ({"model_args": {**ARGS, "num_layers": 10**9}}, "num_layers"),
    "enormous width": ({"model_args": {**ARGS, "hidden_channels": 10**15}}, "hidden_channels"),
    "negative width": ({"model_args": {**ARGS, "hidden_channels": -8}}, "hidden_channels"),
    "checksum is text": ({"weights_sha256": "none"}, "weights_sha256"),
    "path for a data set": (
        {"metrics": [{"dataset": "../../etc", "split": "test", "name": "x", "value": 1}]},
        "metrics",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_hostile_configuration(folder: Path, case: str) -> None:
    change, message = CONFIGS[case]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    refused(folder, "config.json", message)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00{", b"[" * 100_000, b"[]", b"null", b"{" * 2_000_000, b'{"a": 1}']
)
def test_configuration_that_is_none(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    refused(folder, "config.json")


def test_wrong_place(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere" / "at" / "all", "does not exist")
    refused(folder / "README.md", "is a file")


def test_hub_name_offline_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="no such folder here") as caught:
        zoo.from_pretrained("nobody/nothing")
    assert "nobody/nothing" in str(caught.value)


def test_hub_download_goes_through_the_same_checks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hub's cache hands out links into its own store.
    store = tmp_path / "snapshot"
    store.mkdir()
    asked = []

    def download(repository: str, filename: str, revision: str | None = None) -> str:
        asked.append((repository, filename, revision))
        link = store / filename
        if not link.exists():
            link.symlink_to(folder / filename)
        return str(link)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    model = zoo.from_pretrained("org/name", revision="abc")
    assert torch.equal(next(model.parameters()), next(make_model().parameters()))
    assert {a[2] for a in asked} == {"abc"}
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError):
        zoo.from_pretrained("org/name", revision="abc")


def test_list_names_good_and_damaged_folders(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"format": "graphkit-model/1"}')
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    found = {path: config for path, config in zoo.entries([tmp_path]) if tmp_path in path.parents}
    assert set(found) == {folder, broken}
    assert isinstance(found[broken], CheckpointError)
    assert isinstance(found[folder], zoo.ZooConfig)
