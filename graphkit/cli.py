"""The command line. Commands import what they need when they run: ``--help`` must be quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from graphkit.cli_graphs import embed, summarize
from graphkit.errors import GraphkitError, InputError

app = typer.Typer(
    name="graphkit",
    help="Graph learning on PyTorch and PyG: fused message passing, leaderboard recipes, a zoo.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _group(name: str, text: str, **settings: Any) -> typer.Typer:
    group = typer.Typer(help=text, rich_markup_mode=None, **settings)
    app.add_typer(group, name=name)
    return group


recipes_app = _group("recipes", "List and show the recipes.", no_args_is_help=True)
data_app = _group("data", "List, show, find and prepare data sets.", no_args_is_help=True)
zoo_app = _group("zoo", "List, measure and save model checkpoints.", no_args_is_help=True)
board_app = _group(
    "leaderboard", "Set result records beside the published figures.", invoke_without_command=True
)

Runs = Annotated[Path, typer.Option("--runs", help="The folder of all runs.")]


def _complete_recipe(incomplete: str) -> list[str]:
    from graphkit import recipes

    return [name for name in recipes.names() if name.startswith(incomplete)]


def _complete_dataset(incomplete: str) -> list[str]:
    from graphkit.data.cards import names

    return [name for name in names() if name.startswith(incomplete)]


RecipeName = Annotated[
    str,
    typer.Argument(
        help="<dataset>/<model>[@variant], or the path of a YAML file.",
        autocompletion=_complete_recipe,
    ),
]
DatasetName = Annotated[str, typer.Argument(autocompletion=_complete_dataset)]


def _print_version(wanted: bool) -> None:
    if wanted:
        from graphkit import __version__

        typer.echo(f"graphkit {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Graph learning on PyTorch and PyG."""


@app.command()
def run(
    recipe: RecipeName,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings as key=value, e.g. optimizer.lr=0.01."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="How many seeds: 0, 1, ... The recipe's by default.")
    ] = None,
    runs: Runs = Path("runs"),
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away an earlier run of this recipe.")
    ] = False,
    dry: Annotated[
        bool, typer.Option("--dry", help="Say what would run and what it needs, then stop.")
    ] = False,
) -> None:
    """Train a recipe over its seeds; the same command continues a run that was stopped."""
    from graphkit import recipes
    from graphkit.results.progress import ConsoleReporter
    from graphkit.results.runner import Interrupted
    from graphkit.results.runner import run as run_recipe

    loaded = recipes.load(recipe)
    if dry:
        from graphkit.results.dry import describe

        for line in describe(loaded, overrides or [], seeds, runs):
            typer.echo(line)
        return
    reporter = ConsoleReporter()
    try:
        run_recipe(
            loaded, seeds=seeds, overrides=overrides or [], runs=runs, restart=restart,
            reporter=reporter,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted from None
    finally:
        reporter.close()


@recipes_app.command("list")
def recipes_list(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a pattern with *.")] = "*",
) -> None:
    """List recipes with their size and the published figure."""
    from graphkit import recipes
    from graphkit.results.tables import recipe_lines

    names = recipes.names(pattern)
    if not names:
        raise InputError(f"no recipe matches {pattern!r}; `graphkit recipes list` shows all")
    for line in recipe_lines([recipes.load(name) for name in names]):
        typer.echo(line)


@recipes_app.command("show")
def recipes_show(recipe: RecipeName) -> None:
    """Print the file of a recipe."""
    from graphkit import recipes

    loaded = recipes.load(recipe)
    typer.echo(recipes.path_of(recipe).read_text(encoding="utf-8").rstrip())
    typer.echo(f"# hash {loaded.hash[:12]}, {recipes.path_of(recipe)}")


@data_app.command("list")
def data_list(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a pattern with *.")] = "*",
) -> None:
    """List the data sets and whether their files are here."""
    from graphkit.results.tables import dataset_lines

    for line in dataset_lines(pattern):
        typer.echo(line)


@data_app.command("show")
def data_show(name: DatasetName) -> None:
    """Print the card of a data set: source, licence, statistics, split, metric, how to get it."""
    import yaml

    from graphkit.data.cards import card

    content = card(name).model_dump(mode="json")
    typer.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip())


@data_app.command("where")
def data_where(
    name: Annotated[str | None, typer.Argument(autocompletion=_complete_dataset)] = None,
) -> None:
    """Say where data sets are looked for, or where the files of one are."""
    from graphkit.data.cards import card
    from graphkit.data.locate import cache_folder, data_roots, find

    if name is not None:
        typer.echo(str(find(card(name)).base))
        return
    for folder in data_roots():
        typer.echo(f"data   {folder}" + ("" if folder.is_dir() else "  (not there)"))
    typer.echo(f"cache  {cache_folder()}")


@data_app.command("prepare")
def data_prepare(name: DatasetName) -> None:
    """Read a data set once, check it against its card and fill the cache."""
    import time

    from graphkit import data

    start = time.perf_counter()
    dataset = data.load(name)
    typer.echo(f"{dataset!r}")
    typer.echo(f"ready in {time.perf_counter() - start:.1f} s")


@app.command()
def doctor() -> None:
    """Say what is installed, what works, what is missing and how to get it (exit code 0 or 1)."""
    from graphkit.doctor import examine

    marks = {"ok": "ok ", "off": " - ", "bad": "BAD"}
    topic, bad = "", 0
    for finding in examine():
        if finding.topic != topic:
            topic = finding.topic
            typer.echo(topic)
        typer.echo(f"  {marks[finding.state]} {finding.name:<17} {finding.text}")
        bad += finding.state == "bad"
    if bad:
        typer.echo(f"{bad} thing{'s' if bad > 1 else ''} to repair, marked BAD")
        raise typer.Exit(1)
    typer.echo("ready")


@board_app.callback()
def leaderboard(
    context: typer.Context,
    runs: Annotated[
        list[Path] | None,
        typer.Option("--runs", help="A folder of runs; may be given several times."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write leaderboard.md and leaderboard.html into this folder."),
    ] = None,
) -> None:
    """Set all result records beside the published figures."""
    if context.invoked_subcommand is not None:
        return
    from graphkit import results
    from graphkit.storage import atomic_write_text

    records, problems = results.collect(runs or [Path("runs")])
    for problem in problems:
        typer.echo(f"left out: {problem}", err=True)
    if out is None:
        typer.echo(results.to_markdown(records))
        return
    atomic_write_text(out / "leaderboard.md", results.to_markdown(records))
    atomic_write_text(out / "leaderboard.html", results.to_html(records))
    typer.echo(f"{len(records)} records: {out / 'leaderboard.md'}, {out / 'leaderboard.html'}")


@board_app.command("export")
def leaderboard_export(
    record: Annotated[Path, typer.Argument(help="A run folder or its result.json.")],
    contact: Annotated[str, typer.Option(help="Your name and address.")] = "",
    code_url: Annotated[str, typer.Option(help="Public repository of the method.")] = "",
    paper_url: Annotated[str, typer.Option(help="The paper of the method.")] = "",
    method_name: Annotated[str, typer.Option(help="As it shall stand on the board.")] = "",
) -> None:
    """Print the fields of an OGB submission form, or say why this record must not be submitted."""
    import json

    from graphkit import results

    fields = results.export(
        results.read_record(record), contact=contact, code_url=code_url, paper_url=paper_url,
        method_name=method_name or None,
    )  # fmt: skip
    typer.echo(json.dumps(fields, indent=2, ensure_ascii=False))


@zoo_app.command("list")
def zoo_list(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Where else to look."),
    ] = None,
) -> None:
    """List the checkpoints that ship with graphkit, in ./zoo, and below the given folders."""
    from graphkit import zoo
    from graphkit.results.tables import zoo_lines

    for line in zoo_lines(zoo.entries(folders or [Path("zoo")])):
        typer.echo(line)


@zoo_app.command("eval")
def zoo_eval(path: Annotated[Path, typer.Argument(help="A zoo folder.")]) -> None:
    """Measure a checkpoint again and compare with its card (exit code 1 when they differ)."""
    from graphkit import zoo

    agree = True
    for result in zoo.evaluate(path):
        verdict = "agrees" if result.agrees else "DIFFERS"
        typer.echo(
            f"{result.metric.dataset} {result.metric.split} {result.metric.name}: measured "
            f"{result.value:.8f}, card {result.metric.value:.8f}: {verdict}"
        )
        agree &= result.agrees
    if not agree:
        raise typer.Exit(1)


@zoo_app.command("save")
def zoo_save(
    run: Annotated[Path, typer.Argument(help="A finished run, such as runs/demo/gcn.")],
    target: Annotated[Path, typer.Argument(help="The zoo folder to write.")],
    seed: Annotated[
        int | None,
        typer.Option(help="Which seed; the one with the best validation figure by default."),
    ] = None,
    description: Annotated[str, typer.Option(help="One sentence for the card.")] = "",
) -> None:
    """Make a zoo folder from the best checkpoint of a finished run."""
    from graphkit import zoo

    folder = zoo.save_run(run, target, seed=seed, description=description)
    typer.echo(f"saved {folder}; `graphkit zoo eval {folder}` measures it again")


app.command()(embed)
app.command()(summarize)


@app.command()
def plot(
    folders: Annotated[list[Path], typer.Argument(help="Run folders to draw together.")],
    out: Annotated[Path, typer.Option(help="The picture, .png or .svg.")] = Path("curves.png"),
    over: Annotated[
        str | None,
        typer.Option(
            help="Draw test figures of all runs below the folders against this setting, e.g. "
            "dataset.options.rate."
        ),
    ] = None,
    seconds: Annotated[
        bool, typer.Option("--seconds", help="Against training time instead of epochs.")
    ] = False,
    metric: Annotated[
        str | None, typer.Option(help="This validation figure alone, such as recall@20.")
    ] = None,
) -> None:
    """Draw the training curves of one or several runs, with the spread over seeds."""
    if over is not None:
        from graphkit.results.sweeps import draw_over

        typer.echo(str(draw_over(folders, over, out)))
        return
    from graphkit.results.curves import draw

    typer.echo(str(draw(folders, out, against="seconds" if seconds else "epoch", metric=metric)))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context) -> None:
    """Run the benchmarks of a source checkout; arguments are passed on."""
    import subprocess

    import graphkit

    checkout = Path(graphkit.__file__).resolve().parent.parent
    if not (checkout / "benchmarks").is_dir():
        raise InputError("benchmarks come with the source: clone the repository and run it there")
    done = subprocess.run([sys.executable, "-m", "benchmarks", *context.args], cwd=checkout)
    raise typer.Exit(done.returncode)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; every expected error is one clear line and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    # Accepted in any place: it is added after something went wrong.
    given = ["--debug"] * debug + [a for a in given if a != "--debug"]
    try:
        app(given, prog_name="graphkit")
    except Exception as error:
        if debug:
            raise
        message, code = _explain(error)
        typer.echo(message, err=True)
        sys.exit(code)


def _explain(error: Exception) -> tuple[str, int]:
    from graphkit.results.runner import Interrupted

    if isinstance(error, Interrupted):
        return "stopped; the same command continues", 130
    if isinstance(error, GraphkitError):
        return f"error: {error}", 2
    if isinstance(error, OSError):
        return f"error: {error.filename or 'system'}: {error.strerror or error}", 2
    text = (
        f"unexpected {type(error).__name__}: {error}\n"
        "this is a defect of graphkit: run again with --debug and report the traceback"
    )
    return text, 1


if __name__ == "__main__":
    main()
