"""Turn a result record into the fields of a leaderboard form, or say why it must not be one."""

from __future__ import annotations

import math
from typing import Any

from graphkit.errors import InputError
from graphkit.results.record import ResultRecord, mean_and_std

_LRGB = ("peptides-func", "peptides-struct", "pascalvoc-sp", "coco-sp", "pcqm-contact")


def protocol(dataset: str) -> tuple[int, str] | None:
    """Return how many seeds a leaderboard wants and which standard deviation it prints.

    Example:
        >>> protocol("ogbg-molhiv"), protocol("Peptides-func"), protocol("Cora")
        ((10, 'unbiased'), (4, 'population'), None)
    """
    name = dataset.lower()
    if name.startswith(("ogbg-", "ogbn-", "ogbl-")):
        return (3 if name == "ogbn-papers100m" else 10), "unbiased"
    return (4, "population") if name in _LRGB else None


def count_again(record: ResultRecord) -> int:
    """Build the model that a record names and count its learnable parameters."""
    from graphkit.models import create_model
    from graphkit.results.build import count_parameters

    return count_parameters(create_model(record.model, **record.model_args))


def refusals(record: ResultRecord, fields: dict[str, Any], counted: int | None = None) -> list[str]:
    """Return every reason why a record may not be submitted, none when it may.

    Args:
        record: the run.
        fields: what only the submitter knows: contact, code_url, paper_url.
        counted: the parameter count of the built model; built and counted here by default.
    """
    reasons = [
        f"field {name!r} is missing: give --{name.replace('_', '-')}"
        for name, value in fields.items()
        if not str(value or "").strip()
    ]
    rule = protocol(record.dataset)
    if rule is None:
        reasons.append(f"{record.dataset} has no OGB or LRGB leaderboard")
    else:
        wanted, std_kind = rule
        if record.n_runs < wanted:
            reasons.append(
                f"{record.n_runs} seeds, the protocol wants {wanted}: "
                f"graphkit run {record.recipe} --seeds {wanted}"
            )
        if record.std_kind != std_kind:
            reasons.append(f"std_kind is {record.std_kind!r}, the protocol wants {std_kind!r}")
    if record.split_kind != "official":
        reasons.append(f"split_kind is {record.split_kind!r}: only the official split counts")
    if record.data_kind != "official":
        reasons.append(f"data_kind is {record.data_kind!r}: only the official files count")
    reasons += _inconsistent(record)
    counted = count_again(record) if counted is None else counted
    if counted != record.num_params:
        reasons.append(f"num_params is {record.num_params:,}, the built model has {counted:,}")
    return reasons


def _inconsistent(record: ResultRecord) -> list[str]:
    seeds = [r.seed for r in record.per_seed]
    if record.n_runs != len(seeds) or record.seeds != seeds or len(set(seeds)) != len(seeds):
        return [f"n_runs {record.n_runs} and seeds {record.seeds} do not fit per_seed {seeds}"]
    reasons = []
    for split in ("test", "valid"):
        values = [float(getattr(r, split)) for r in record.per_seed]
        for kind, value in zip(("mean", "std"), mean_and_std(values, record.std_kind), strict=True):
            written = getattr(record, f"{split}_{kind}")
            same = written == value or (
                written is not None
                and value is not None
                and math.isclose(written, value, abs_tol=1e-9)
            )
            if not same:
                reasons.append(f"{split}_{kind} is {written}, per_seed gives {value}")
    return reasons


def export(
    record: ResultRecord,
    *,
    contact: str = "",
    code_url: str = "",
    paper_url: str = "",
    method_name: str | None = None,
    counted: int | None = None,
) -> dict[str, Any]:
    """Return the fields that an OGB submission form asks for.

    Args:
        record: the run.
        contact: name and address of the submitter.
        code_url: public repository with the exact command.
        paper_url: the paper of the method.
        method_name: as it shall stand on the board; the record's by default.
        counted: the parameter count of the built model; counted here by default.

    Raises:
        InputError: lists every reason why this record may not be submitted.
    """
    fields = {"contact": contact, "code_url": code_url, "paper_url": paper_url}
    reasons = refusals(record, fields, counted)
    if reasons:
        raise InputError(f"{record.recipe} cannot be submitted: " + "; ".join(reasons))
    machine = record.environment.get("hardware", {})
    gpus = machine.get("gpus") or []
    return {
        "ogb_version": record.environment.get("versions", {}).get("ogb"),
        "method_name": method_name or record.method_name,
        "dataset": record.dataset,
        "external_data": record.external_data,
        "test_mean": record.test_mean,
        "test_std": record.test_std,
        "valid_mean": record.valid_mean,
        "valid_std": record.valid_std,
        "std_kind": record.std_kind,
        "n_runs": record.n_runs,
        "contact": contact,
        "code_url": code_url,
        "command": record.command,
        "paper_url": paper_url,
        "num_params": record.num_params,
        "official_implementation": record.official_implementation,
        "hardware": ", ".join(gpus) if gpus else str(machine.get("cpu")),
    }
