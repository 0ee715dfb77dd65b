"""Commands on the file of a graph: ``embed`` and ``summarize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphkit.errors import InputError


def embed(
    graph: Annotated[str, typer.Argument(help="A file of edges, or a data set of one graph.")],
    out: Annotated[Path, typer.Option(help="The vectors, .npz or .safetensors.")] = Path(
        "embedding.npz"
    ),
    dim: Annotated[int, typer.Option(help="Numbers per node.")] = 512,
    variant: Annotated[str, typer.Option(help="paper or gds.")] = "paper",
    weights: Annotated[
        str | None, typer.Option(help="Of the powers 1, 2, ...: 0,0,7.81,45.28")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Exponent of the degrees.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random projection.")] = 42,
    directed: Annotated[bool, typer.Option("--directed", help="Keep edges one-way.")] = False,
    picture: Annotated[
        Path | None, typer.Option("--map", help="Also draw the nodes on a plane: a .png or .svg.")
    ] = None,
) -> None:
    """Embed the nodes of a graph by FastRP, without training."""
    from graphkit.data import read_any_graph
    from graphkit.models import FastRP
    from graphkit.results import embedding as embeddings
    from graphkit.results.progress import counting

    try:
        numbers = None if weights is None else [float(w) for w in weights.split(",")]
    except ValueError:
        raise InputError(f"weights: {weights!r}, wanted numbers with commas between") from None
    model = FastRP(dim, variant=variant, weights=numbers, beta=beta, seed=seed)
    if out.suffix not in (".npz", ".safetensors"):  # before the work
        raise InputError(f"out: {out.name}, wanted a name that ends in .npz or .safetensors")
    if picture is not None:
        embeddings.check_map(picture)
    with counting("edges read") as tell:
        read = read_any_graph(graph, undirected=not directed, progress=tell)
    if picture is not None:
        embeddings.check_map(picture, read.csr.num_rows)
    with counting("products") as tell:
        model.set_params(progress=tell)
        found = model.fit_transform(read.csr)
    embeddings.save_embedding(out, read.ids, found)
    typer.echo(f"{out}: {found.size(0):,} nodes x {found.size(1)}")
    if picture is not None:
        embeddings.draw_map(read.csr, found, picture, seed=seed)
        typer.echo(str(picture))


def summarize(
    graph: Annotated[str, typer.Argument(help="A file of edges, or a data set of one graph.")],
    fraction: Annotated[float | None, typer.Option(help="Size, as a share of the graph's.")] = None,
    bits: Annotated[float | None, typer.Option(help="Size in bits, instead.")] = None,
    fractions: Annotated[str | None, typer.Option(help="Several sizes: 0.1,0.2,0.4")] = None,
    p: Annotated[int, typer.Option(help="Errors to keep small: 1 absolute, 2 squared.")] = 1,
    seed: Annotated[int, typer.Option(help="Of every random number.")] = 0,
    out: Annotated[Path, typer.Option(help="The summary, .txt, .npz or .safetensors.")] = Path(
        "summary.txt"
    ),
    picture: Annotated[
        Path | None, typer.Option(help="Draw errors against sizes: a .png or .svg.")
    ] = None,
    symmetrise: Annotated[
        bool, typer.Option("--symmetrise", help="Take a data set's one-way edges for edges.")
    ] = False,
) -> None:
    """Summarise a graph in a given number of bits by SSumM."""
    from graphkit.results import summaries

    if sum(given is not None for given in (fraction, bits, fractions)) != 1:
        raise InputError("fraction, bits, fractions: wanted exactly one of them")
    shares = [fraction] if fractions is None else summaries.fractions_of(fractions)
    for line in summaries.summarise_graph(
        graph, shares, bits=bits, p=p, seed=seed, out=out, picture=picture, symmetrise=symmetrise
    ):
        typer.echo(line)
