"""aggregate: out_i = REDUCE_{j in N(i)} MESSAGE(x_j, e_ij) in one pass, without E x F tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest
from graphkit.ops import backends, reference
from graphkit.ops.aggregate_native import MESSAGES, REDUCES, Eager, aggregate_cpu, aggregate_op
from graphkit.ops.csr import CSR
from graphkit.ops.degree_scalers import Averages, check_scalers, scaled
from graphkit.ops.eager import is_plain
from graphkit.ops.lookup import through as _through

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def aggregate(
    csr: CSR,
    x: Tensor,
    edge: Tensor | None = None,
    *,
    lookup: Tensor | None = None,
    message: str = "copy",
    reduce: str | Sequence[str] = "sum",
    scalers: str | Sequence[str] | None = None,
    avg_degree: Averages | None = None,
) -> Tensor:
    r"""Reduce the messages that each node receives.

    .. math::
        out_{i,f} = \mathrm{REDUCE}_{k:\, row(k) = i} \;
        \mathrm{MESSAGE}(x_{col(k),f},\, edge_{eid(k),f})

    ============  ====================================================
    ``message``   value
    ============  ====================================================
    ``copy``      :math:`x_j`
    ``scale``     :math:`w_e x_j`, one weight per edge, or per edge and head
    ``mul``       :math:`x_j \odot e`
    ``add``       :math:`x_j + e`
    ``add_relu``  :math:`\mathrm{ReLU}(x_j + e)`
    ============  ====================================================

    Several reduces share one pass over the neighbours. ``var`` is the biased variance and ``std``
    its root, zero where the variance is at most 1e-5 (PyG's StdAggregation). Gradients of ``min``
    and ``max`` go to one winner, the first edge among equals. A row with no entries gives zeros.
    Results are bitwise the same for any number of threads and from run to run.

    ``scalers`` multiply each node's result by functions of its in-degree :math:`d` (PNA, Corso et
    al., arXiv 2004.05718), with :math:`d_1 = \max(d, 1)`: ``identity`` 1, ``amplification``
    :math:`\log(d + 1) / \overline{\log}`, ``attenuation`` :math:`\overline{\log} / \log(d_1 + 1)`,
    ``linear`` :math:`d / \overline{lin}`, ``inverse_linear`` :math:`\overline{lin} / d_1`.

    Args:
        csr: the graph, sorted by destination.
        x: ``[num_cols, F]`` source features (float16, bfloat16, float32 or float64; half types
            accumulate in float32).
        edge: ``[E, F]`` edge features in the order of ``edge_index`` (``mul``, ``add``,
            ``add_relu``), or ``[E]`` or ``[E, H]`` weights (``scale``; head ``h`` weighs
            features ``h*F/H:(h+1)*F/H``). With ``lookup``, a table of ``R`` rows instead of ``E``.
        lookup: ``[E]`` integer row of the table ``edge`` that each edge reads (bond embeddings).
        message: one of the messages above.
        reduce: ``sum``, ``mean``, ``min``, ``max``, ``var``, ``std``, or several of them.
        scalers: one or several of the scalers above.
        avg_degree: the averages over the training set, ``{"lin": ..., "log": ...}``, from
            :func:`graphkit.ops.average_degrees`; tensors of one element get gradients.

    Shapes:
        - **out:** ``[num_rows, F]``; with a sequence of ``R`` reduces ``[num_rows, R, F]``; with a
          sequence of ``S`` scalers ``[num_rows, S, F]`` or ``[num_rows, S, R, F]``, of which
          ``.flatten(1)`` is the layout of PyG's DegreeScalerAggregation.

    Raises:
        InputError: an unknown message, reduce or scaler, an average that is missing or not
            positive, or a tensor of the wrong shape or dtype.

    Example:
        >>> csr = CSR.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 1]]), num_nodes=3)
        >>> x = torch.tensor([[1.0], [2.0], [4.0]])
        >>> aggregate(csr, x, reduce=["sum", "max"])[1].tolist()
        [[5.0], [4.0]]
        >>> aggregate(csr, x, scalers=["identity", "linear"], avg_degree={"lin": 4.0})[1].tolist()
        [[5.0], [2.5]]
    """
    reduces = (reduce,) if isinstance(reduce, str) else tuple(reduce)
    _check(csr, x, edge, lookup, message, reduces)
    factors = (scalers,) if isinstance(scalers, str) else tuple(scalers or ())
    if scalers is not None:
        check_scalers(factors, avg_degree)
    elif avg_degree is not None:
        raise InputError("avg_degree: given without scalers, which alone read it")
    name = backends.current(x.device)
    if name in ("reference", "torch_scatter"):
        if lookup is not None and edge is not None:
            _through(csr, lookup, False, edge.size(0))  # for its check
        out = reference.aggregate(
            csr, x, edge, lookup=lookup, message=message, reduces=reduces,
            scatter="torch_scatter" if name == "torch_scatter" else "torch",
        )  # fmt: skip
    else:
        eid, rowptr_t, col_t, eid_t = csr.eid, None, None, None
        needs_grad = torch.is_grad_enabled() and (
            x.requires_grad or (edge is not None and edge.requires_grad)
        )
        transposed = csr.transpose() if needs_grad else None
        if transposed is not None:
            rowptr_t, col_t, eid_t = transposed.rowptr, transposed.col, transposed.eid
        if lookup is not None and edge is not None:
            eid, eid_t = _through(csr, lookup, needs_grad, edge.size(0))
        run: Any = aggregate_op
        if is_plain(x, edge):
            run = Eager.apply if needs_grad else aggregate_cpu
        out = run(
            x, edge, csr.rowptr, csr.col, eid, rowptr_t, col_t, eid_t, message,
            ",".join(reduces), lookup is not None, needs_grad,
        )[0]  # fmt: skip
    # Not `out[:, 0]`: its backward would fill a tensor of zeros first.
    if isinstance(reduce, str):
        out = out if out.dim() == 2 else out.squeeze(1)
    else:
        out = out if out.dim() == 3 else out.unsqueeze(1)
    if scalers is None:
        return out
    out = scaled(csr, out, factors, avg_degree)
    return out.squeeze(1) if isinstance(scalers, str) else out


def segment(x: Tensor, ptr: Tensor | CSR, reduce: str | Sequence[str] = "sum") -> Tensor:
    """Reduce consecutive rows: graph ``g`` of a batch owns rows ``ptr[g]:ptr[g+1]`` (pooling).

    Args:
        x: ``[N, F]`` values sorted by segment.
        ptr: ``[G + 1]`` segment starts, or a CSR from :meth:`CSR.from_ptr` (reuse it: cheaper).
        reduce: as for :func:`aggregate`.

    Shapes:
        - **out:** ``[G, F]``; with ``R`` reduces ``[G, R, F]``. An empty segment gives zeros.

    Raises:
        InputError: ``ptr`` is not non-decreasing from 0, or does not end with ``N``.

    Example:
        >>> segment(torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([0, 2, 3]), "mean").tolist()
        [[1.5], [5.0]]
    """
    csr = ptr if isinstance(ptr, CSR) else CSR.from_ptr(ptr)
    return aggregate(csr, x, reduce=reduce)


def _check(
    csr: CSR,
    x: Tensor,
    edge: Tensor | None,
    lookup: Tensor | None,
    message: str,
    reduces: tuple[str, ...],
) -> None:
    if message not in MESSAGES:
        raise InputError(
            f"message: {message!r} is not one of {', '.join(MESSAGES)}{nearest(message, MESSAGES)}"
        )
    if not reduces or len(set(reduces)) < len(reduces):
        raise InputError(f"reduce: {list(reduces)}, wanted at least one and each at most once")
    for reduce in reduces:
        if reduce not in REDUCES:
            raise InputError(
                f"reduce: {reduce!r} is not one of {', '.join(REDUCES)}{nearest(reduce, REDUCES)}"
            )
    if x.dim() != 2 or x.size(0) != csr.num_cols:
        raise InputError(f"x: shape {list(x.shape)}, wanted [{csr.num_cols}, F]")
    if x.dtype not in _DTYPES:
        raise InputError(f"x: dtype {x.dtype}, wanted float16, bfloat16, float32 or float64")
    if message == "copy":
        if edge is not None:
            raise InputError("edge: given, but message='copy' does not read it")
        return
    if edge is None:
        raise InputError(f"edge: missing, but message={message!r} reads it")
    if edge.dtype != x.dtype:
        raise InputError(f"edge: dtype {edge.dtype}, wanted {x.dtype} as x")
    entries, width = csr.num_entries, x.size(1)
    rows = "R" if lookup is not None else "E"
    if edge.dim() not in (1, 2):
        raise InputError(f"edge: shape {list(edge.shape)}, wanted one or two dimensions")
    if lookup is None and edge.size(0) != entries:
        raise InputError(f"edge: {edge.size(0)} rows, but edge_index has {entries} edges")
    integers = (torch.int32, torch.int64)
    if lookup is not None and (lookup.shape != (entries,) or lookup.dtype not in integers):
        raise InputError(
            f"lookup: {lookup.dtype} of shape {list(lookup.shape)}, wanted [{entries}] integers"
        )
    if message == "scale":
        if edge.dim() == 2 and (not edge.size(1) or width % edge.size(1)):
            raise InputError(
                f"edge: shape {list(edge.shape)}, wanted [{rows}] or [{rows}, H], "
                f"H a divisor of {width}"
            )
    elif edge.dim() != 2 or edge.size(1) != width:
        raise InputError(f"edge: shape {list(edge.shape)}, wanted [{rows}, {width}]")
