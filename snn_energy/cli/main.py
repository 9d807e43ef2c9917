"""Entry point of ``snn-energy``: imports the commands where an interrupt is caught, as imports take most of a start."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command of ``sys.argv``; an interrupt, during the imports too, is one line and exit code 130."""
    try:
        from snn_energy.cli.commands import run

        run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
