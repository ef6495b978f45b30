"""The command line: `python -m cbs.run`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Compose a trial or a sweep with Hydra and run it. Exit codes: 0 done, 1 a run failed, 2 bad input."""
    from cbs import cli

    sys.exit(cli.main(sys.argv, os.environ))


if __name__ == "__main__":
    main()
