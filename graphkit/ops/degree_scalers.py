"""Degree scalers of PNA: factors per node that tell an aggregation how many messages it saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.ops.csr import CSR

SCALERS = ("identity", "amplification", "attenuation", "linear", "inverse_linear")
_AVERAGES = {
    "amplification": "log",
    "attenuation": "log",
    "linear": "lin",
    "inverse_linear": "lin",
}
Averages = Mapping[str, float | Tensor]


def average_degrees(histogram: Tensor) -> dict[str, float]:
    r"""Average degrees, plain and logarithmic, by which degree scalers are normalised.

    PNA (Corso et al., arXiv 2004.05718), equation 5, over the nodes of the training set:

    .. math::
        lin = \frac{\sum_d n_d \, d}{\sum_d n_d}, \qquad
        log = \frac{\sum_d n_d \log(d + 1)}{\sum_d n_d}

    Args:
        histogram: ``[D + 1]`` how many nodes have in-degree 0, 1, ..., D, such as
            ``torch.bincount(csr.degree)`` or PyG's ``PNAConv.get_degree_histogram(loader)``.

    Returns:
        ``{"lin": ..., "log": ...}``, for ``avg_degree`` of :func:`graphkit.ops.aggregate`.

    Shapes:
        histogram: ``[D + 1]``

    Raises:
        InputError: not a vector of counts, or no node at all.

    Example:
        >>> average_degrees(torch.tensor([1, 0, 3]))["lin"]
        1.5
    """
    if histogram.dim() != 1 or histogram.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise InputError(
            f"histogram: {histogram.dtype} of shape {list(histogram.shape)}, wanted [D + 1] counts"
        )
    counts = histogram.detach().to("cpu", torch.float64)
    nodes = float(counts.sum())
    if counts.numel() and not bool((counts >= 0).all()):
        raise InputError(f"histogram: holds {float(counts.min())}, wanted counts of at least 0")
    if not 0 < nodes < float("inf"):
        raise InputError(f"histogram: {nodes} nodes, wanted at least one")
    degree = torch.arange(counts.numel(), dtype=torch.float64, device=counts.device)
    return {
        "lin": float((counts * degree).sum()) / nodes,
        "log": float((counts * degree.log1p()).sum()) / nodes,
    }


def degree_scales(degree: Tensor, scalers: Sequence[str], averages: Averages) -> Tensor:
    r"""``[N, S]`` factors of each node: the one home of the scalers' formulas.

    With :math:`d` the in-degree, ``lin`` and ``log`` the averages and :math:`d_1 = \max(d, 1)`:
    identity 1, amplification :math:`\log(d + 1) / log`, attenuation :math:`log / \log(d_1 + 1)`,
    linear :math:`d / lin`, inverse_linear :math:`lin / d_1`.

    Args:
        degree: ``[N]`` in a floating-point type, in which the factors are computed.
        scalers: names, see above.
        averages: ``"lin"`` and ``"log"``, as far as the scalers need them; numbers, or tensors of
            one element, which get gradients.

    Shapes:
        - **out:** ``[N, S]``

    Example:
        >>> degree = torch.tensor([0.0, 1.0, 4.0])
        >>> degree_scales(degree, ["identity", "inverse_linear"], {"lin": 2.0}).tolist()
        [[1.0, 2.0], [1.0, 2.0], [1.0, 0.5]]
    """
    at_least_one = degree.clamp(min=1)
    formulas: dict[str, Callable[[], Tensor]] = {
        "identity": lambda: torch.ones_like(degree),
        "amplification": lambda: torch.log(degree + 1) / averages["log"],
        "attenuation": lambda: averages["log"] / torch.log(at_least_one + 1),
        "linear": lambda: degree / averages["lin"],
        "inverse_linear": lambda: averages["lin"] / at_least_one,
    }
    return torch.stack([formulas[scaler]() for scaler in scalers], dim=1)


def check_scalers(scalers: Sequence[str], averages: Averages | None) -> None:
    """Refuse names that are not known and averages that are missing or not positive."""
    if not scalers or len(set(scalers)) < len(scalers):
        raise InputError(f"scalers: {list(scalers)}, wanted at least one and each at most once")
    for scaler in scalers:
        if scaler not in SCALERS:
            raise InputError(
                f"scalers: {scaler!r} is not one of {', '.join(SCALERS)}{nearest(scaler, SCALERS)}"
            )
        name = _AVERAGES.get(scaler)
        if name is None:
            continue
        if averages is None or name not in averages:
            seen = "missing" if averages is None else f"has {', '.join(map(repr, averages))}"
            raise InputError(f"avg_degree: {seen}, wanted {name!r} for the scaler {scaler!r}")
        value = averages[name]
        if isinstance(value, Tensor) and value.numel() != 1:
            raise InputError(
                f"avg_degree: {name!r} of shape {list(value.shape)}, wanted one number"
            )
        if isinstance(value, Tensor) and torch.compiler.is_compiling():
            continue  # its value is not there to be looked at
        number = float(value.detach() if isinstance(value, Tensor) else value)
        if not 0 < number < float("inf"):
            raise InputError(
                f"avg_degree: {name!r} is {number}, wanted a positive number; "
                "graphkit.ops.average_degrees(histogram) gives it"
            )


def scaled(csr: CSR, found: Tensor, scalers: Sequence[str], averages: Averages | None) -> Tensor:
    """``[N, S, ...]`` of ``[N, ...]``: each node's rows times each of its factors."""
    if tuple(scalers) == ("identity",):
        return found.unsqueeze(1)
    degree = csr.degree.to(torch.promote_types(found.dtype, torch.float32))
    flat = {
        name: value.view(1) if isinstance(value, Tensor) else value
        for name, value in (averages or {}).items()
    }
    scales = degree_scales(degree, scalers, flat).to(found.dtype)
    return found.unsqueeze(1) * scales.view(*scales.shape, *[1] * (found.dim() - 1))
