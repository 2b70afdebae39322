"""The application ``lsc-snn``: its commands, and how each of them ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from lsc_snn import _cli_bench, _cli_data, _cli_export, _cli_networks, _cli_runs
from lsc_snn._cli_output import say

BAD_INPUT = 2
INTERRUPTED = 130


class OneLineGroup(TyperGroup):
    """A group of commands in which bad flags and bad input end in one line on stderr and exit code 2, Ctrl-C in 130.

    Bad input is what the library calls so: ValueError, TypeError, OSError and ImportError (a missing extra). Any other
    error is a fault of ours and keeps its traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted; every file that was written is whole")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise  # the reader of our output went away: no input was bad
        except (ValueError, TypeError, OSError, ImportError) as error:
            say(str(error) or type(error).__name__)
            raise typer.Exit(BAD_INPUT) from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Parse the arguments and run; exit with the code, or without ``standalone_mode`` return it."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except Exception as error:
            # Bad flags. Typer carries its parser's error classes under a private name in some versions, not in others.
            if not hasattr(error, "format_message"):
                raise
            say(f"{error.format_message().rstrip('.')}; see lsc-snn --help")
            code = BAD_INPUT
        if standalone_mode:
            sys.exit(code or 0)
        return code


app = typer.Typer(
    name="lsc-snn",
    cls=OneLineGroup,
    epilog="Exit codes: 0 done, 1 a target that could not be reached, 2 bad input (one line says what), 130 Ctrl-C.",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback(invoke_without_command=True)
def root(ctx: typer.Context) -> None:
    """Measure and fix the gradient stability of deep spiking networks before they are trained.

    Start with `lsc-snn demo`: a five-layer network as it comes, and the same one stabilised, trained side by side.
    """
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


app.command("demo")(_cli_runs.demo)
app.command("measure")(_cli_networks.measure_command)
app.command("stabilize")(_cli_networks.stabilize_command)
app.command("train")(_cli_runs.train)
app.command("export")(_cli_export.export_command)
app.command("inspect")(_cli_export.inspect_command)
app.command("peers")(_cli_export.peers_command)
app.command("bench")(_cli_bench.bench)
app.command("speed")(_cli_runs.bench)
app.add_typer(_cli_data.app, name="data")
