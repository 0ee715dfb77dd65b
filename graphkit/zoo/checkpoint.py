"""Write and read zoo folders. What is read may come from anybody: checked first, never executed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import ValidationError

import graphkit
from graphkit.errors import CheckpointError, nearest
from graphkit.results.record import ResultRecord
from graphkit.storage import atomic_write_bytes, atomic_write_text
from graphkit.zoo.card import render_card
from graphkit.zoo.config import CARD, CONFIG, FORMAT, WEIGHTS, Metric, ZooConfig

_MAX_CONFIG = 1 << 20
# safetensors itself takes headers up to 100 MB; one of ours has some hundred short entries.
_MAX_HEADER = 4 << 20
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def save_pretrained(
    model: torch.nn.Module,
    folder: str | os.PathLike[str],
    *,
    record: ResultRecord | None = None,
    metrics: list[Metric] | None = None,
    seed: int | None = None,
    **about: Any,
) -> Path:
    """Write a model as weights, configuration and card.

    Each file replaces its predecessor in one step, so saving over the folder that the model was
    loaded from works.

    Args:
        model: a graphkit model: it has ``name`` and ``config``, its JSON keyword arguments.
        folder: made when it does not exist.
        record: the run that made the weights: fills data set, recipe and command.
        metrics: measured figures of exactly these weights.
        seed: which seed of the run these weights are.
        **about: license, description, paper_name, paper_ids, origin_url, dataset, recipe.

    Raises:
        CheckpointError: the model has no ``name`` and ``config``, or ``about`` an unknown field.
        StorageError: the folder cannot be written; what was there is untouched.

    Example:
        >>> import tempfile
        >>> from graphkit import zoo
        >>> from graphkit.models import create_model
        >>> model = create_model("mpnn_vn", in_channels=4, out_channels=2, conv="gcn")
        >>> folder = zoo.save_pretrained(model, tempfile.mkdtemp())
        >>> type(zoo.from_pretrained(folder)) is type(model)
        True
    """
    name, arguments = getattr(model, "name", None), getattr(model, "config", None)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise CheckpointError(
            f"model: {type(model).__name__} has no name and config; the zoo holds models made by "
            "graphkit.models.create_model"
        )
    weights = _to_safetensors(model)
    content: dict[str, Any] = {
        "library_version": graphkit.__version__,
        "architecture": name,
        "model_args": arguments,
        "num_params": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "metrics": metrics or [],
        "seed": seed,
    }
    if record is not None:
        content |= {
            "dataset": record.dataset,
            "recipe": record.recipe,
            "recipe_hash": record.recipe_hash,
            "overrides": record.overrides,
            "run": record.config,
            "command": record.command,
        }
    try:
        config = ZooConfig.model_validate(content | about)
        text = config.to_json()
    except (ValidationError, TypeError, ValueError) as error:
        raise CheckpointError(f"zoo folder {folder}: {_reason(error)}") from None
    target = Path(folder)
    atomic_write_bytes(target / WEIGHTS, weights)
    atomic_write_text(target / CARD, render_card(config, record))
    # Last, because it holds the checksum that says the folder is whole.
    atomic_write_text(target / CONFIG, text)
    return target


def _to_safetensors(model: torch.nn.Module) -> bytes:
    from safetensors.torch import save

    # Tied weights share storage, which the format refuses: each name gets its own copy.
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    return save(state, metadata={"format": "pt"})


def load_config(folder: str | os.PathLike[str]) -> ZooConfig:
    """Read and check ``config.json`` of a zoo folder.

    Raises:
        CheckpointError: missing, a link, too large, not UTF-8, not JSON, or of another format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, a zoo folder is wanted" if folder.exists() else "does not exist"
        raise CheckpointError(f"zoo folder {folder}: {what}")
    return read_config(folder / CONFIG)


def read_config(path: Path) -> ZooConfig:
    """Read and check one ``config.json``; see :func:`load_config`."""
    with _open_plain(path) as stream:
        raw = stream.read(_MAX_CONFIG + 1)
    if len(raw) > _MAX_CONFIG:
        raise CheckpointError(f"{path}: larger than {_MAX_CONFIG} bytes")
    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_repeats)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{path}: not a graphkit checkpoint: format is {found!r}, wanted {FORMAT!r}"
        )
    try:
        return ZooConfig.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {_reason(error)}") from None


def read_model(config_path: Path, weights_path: Path) -> torch.nn.Module:
    """Build the model that a configuration names and give it the weights of a file.

    Raises:
        CheckpointError: either file is damaged, foreign, or does not fit the other.
    """
    config = read_config(config_path)
    with _open_plain(weights_path) as stream:
        size = os.fstat(stream.fileno()).st_size
        head, shapes = _read_header(stream, size, weights_path)
        _check_arguments(config, len(shapes), config_path)
        _check_fit(config, shapes, config_path, weights_path)
        raw = head + stream.read(size)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != config.weights_sha256:
        raise CheckpointError(
            f"{weights_path}: damaged or exchanged: sha256 is {digest[:12]}..., "
            f"{config_path.name} says {config.weights_sha256[:12]}...; get the folder again"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(raw)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{weights_path}: not a sound safetensors file: {error}") from None
    model = _create(config, config_path, torch.device("cpu"))
    model.load_state_dict(state)
    bad = [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        warnings.warn(
            f"{weights_path}: {len(bad)} tensors hold NaN or infinity, the first is {bad[0]!r}",
            stacklevel=2,
        )
    return model.eval()


def _open_plain(path: Path) -> BinaryIO:
    # No links: a folder from elsewhere could point at any file of this machine. Non-blocking: a
    # pipe under the right name would wait for ever.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except OSError as error:
        reason = "is a link" if error.errno == errno.ELOOP else (error.strerror or str(error))
        raise CheckpointError(f"{path}: cannot be read: {reason}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CheckpointError(f"{path}: not a plain file")
    return os.fdopen(handle, "rb")


def _read_header(
    stream: BinaryIO, size: int, path: Path
) -> tuple[bytes, dict[str, tuple[tuple[int, ...], torch.dtype]]]:
    """Return the bytes read so far, and name -> (shape, dtype), before any weight is read."""
    first = stream.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length < 2 or length > size - 8:
        raise CheckpointError(
            f"{path}: not a safetensors file, or cut off: {size} bytes, header of {length}"
        )
    if length > _MAX_HEADER:
        raise CheckpointError(f"{path}: header of {length} bytes, at most {_MAX_HEADER} are taken")
    raw = stream.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_repeats)
        shapes = {
            str(name): (tuple(int(n) for n in entry["shape"]), _DTYPES[entry["dtype"]])
            for name, entry in header.items()
            if name != "__metadata__"
        }
        end = max(
            [0, *(int(e["data_offsets"][1]) for n, e in header.items() if n != "__metadata__")]
        )
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{path}: safetensors header is damaged: {error!r}") from None
    if size != 8 + length + end:
        raise CheckpointError(f"{path}: {size} bytes, the header promises {8 + length + end}")
    return first + raw, shapes


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Readers disagree on which of two equal keys counts, so a file could show two faces.
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _check_arguments(config: ZooConfig, tensors: int, path: Path) -> None:
    # Building comes before the weights can be compared, so its cost must be bounded here: every
    # layer owns at least one tensor of the file.
    def walk(value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                walk(item, str(name))
        elif isinstance(value, list):
            for item in value:
                walk(item, key)
        elif isinstance(value, int) and not isinstance(value, bool):
            limit = max(tensors, 1) if "layers" in key else 10**7
            if not -1 <= value <= limit:
                raise CheckpointError(f"{path}: model_args: {key} is {value}, at most {limit} fits")

    walk(config.model_args, "model_args")


def _create(config: ZooConfig, path: Path, device: torch.device) -> torch.nn.Module:
    from graphkit.models import create_model, list_models

    known = list_models()
    if config.architecture not in known:
        raise CheckpointError(
            f"{path}: unknown architecture {config.architecture!r}"
            f"{nearest(config.architecture, known)}; there are: {', '.join(known)}"
        )
    try:
        # Initial weights are about to be replaced: the caller's random numbers stay as they are.
        with torch.random.fork_rng(devices=[]), device:
            return create_model(config.architecture, **config.model_args)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        raise CheckpointError(f"{path}: model_args do not build the model: {error}") from None


def _check_fit(
    config: ZooConfig,
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]],
    config_path: Path,
    weights_path: Path,
) -> None:
    model = _create(config, config_path, torch.device("meta"))
    lay_out = getattr(model, "lay_out", None)
    if lay_out is not None:
        # Compressed tables are as large as the training pairs made them.
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                lay_out({name: shape for name, (shape, _) in shapes.items()})  # no values yet
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{weights_path}: {error}") from None
    expected = model.state_dict()
    missing = [k for k in expected if k not in shapes]
    foreign = [k for k in shapes if k not in expected]
    if missing or foreign:
        problem = f"{missing[0]!r} is missing" if missing else f"{foreign[0]!r} does not belong"
        raise CheckpointError(
            f"{weights_path}: weights do not fit {config.architecture}: {problem} "
            f"({len(missing)} missing, {len(foreign)} foreign)"
        )
    for name, tensor in expected.items():
        shape, dtype = shapes[name]
        if shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{weights_path}: {name}: shape {list(shape)}, {config.architecture} wants "
                f"{list(tensor.shape)}"
            )
        if dtype.is_floating_point != tensor.dtype.is_floating_point:
            raise CheckpointError(f"{weights_path}: {name}: {dtype}, wanted {tensor.dtype}")


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = nearest(key, ZooConfig.model_fields) if first["type"] == "extra_forbidden" else ""
        return f"{key}: {first['msg'].lower()}{hint}"
    return str(error)
