"""The `hpm-study` command, reserved for ablations, searches and comparisons of curricula."""

from __future__ import annotations

import typer

app = typer.Typer(add_completion=False)


@app.command()
def study() -> None:
    """Ablations, searches and comparisons of curricula. This release has no studies yet; see the changelog."""
    typer.echo("This release of curriculum-masking has no studies yet; `hpm pretrain` trains single runs.", err=True)
    raise typer.Exit(2)


def main() -> None:
    """Entry point."""
    app()
