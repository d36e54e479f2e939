"""The root of the command line: registers the subcommands. Imports stay light, so that help is instant."""

import os
from typing import Annotated

import typer

from omnialign.cli import (
    annotate,
    ask,
    campaign_changes,
    data,
    dataset_operations,
    embedded,
    evaluations,
    media,
    models,
    reviews,
    tokens,
    train,
)

app = typer.Typer(
    name="omnialign",
    help="Align all-modality models with language feedback.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up")(embedded.up)
app.command("demo")(embedded.demo)
app.command("ask")(ask.ask)
app.command("reward")(ask.reward)
app.add_typer(annotate.app, name="annotate")
annotate.app.add_typer(campaign_changes.app)
app.add_typer(data.app, name="data")
data.app.add_typer(dataset_operations.app)
app.add_typer(evaluations.app, name="eval")
app.add_typer(reviews.app, name="jobs")  # the jobs and their reviews
app.add_typer(media.app, name="media")
app.add_typer(models.app, name="models")
app.add_typer(tokens.app, name="tokens")
app.add_typer(train.app, name="train")
app.command("lineage")(data.lineage)


def _version(asked: bool) -> None:
    if asked:
        from omnialign import __version__

        typer.echo(f"omnialign {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Align all-modality models with language feedback."""


def main() -> None:
    """Entry point of the console script."""
    # gRPC's own lines about a connection that fails come before our sentence about it, and say less. It reads this
    # when it is loaded.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app()


if __name__ == "__main__":
    main()
