"""The entry point of the command ``lsc-snn``; its commands stand in ``_cli_app``, which needs typer and rich."""

from __future__ import annotations

import sys

_EXTRAS = {"typer", "rich"}


def main() -> None:
    """Run the command line and exit: 0 done, 1 a target out of reach, 2 bad input (one line says what), 130 Ctrl-C."""
    try:
        from lsc_snn._cli_app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRAS:
            raise
        remedy = 'install it with: pip install "lsc-snn[cli]"'
        print(f"lsc-snn: the command line needs {error.name}; {remedy}", file=sys.stderr)
        sys.exit(2)
    app()
