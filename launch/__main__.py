"""What became of a sweep: python -m launch status | logs | cancel | resubmit STUDY."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cbs.cli import BAD_INPUT, FAILED, OK
from cbs.errors import InputError, counted
from launch.status import Row, Status, status
from launch.submissions import carriers, submissions

UNFINISHED = 3

_CODES = "Exit codes: 0 everything is settled, 1 a run failed, 2 bad input or no answer from Slurm, 3 not finished yet."
_RUNS = "words that a run's name has, e.g. b=8 adam seed=0, or the key of its trial"


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    # Options may stand anywhere: argparse alone wants them before the words.
    given = [*given[:1], *sorted(given[1:], key=lambda one: not one.startswith("-"))]
    arguments = _parser().parse_args(given)
    try:
        code: int = arguments.run(arguments)
        return code
    except InputError as error:
        print(f"launch: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launch", description=__doc__, epilog=_CODES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text, epilog=_CODES)
        one.add_argument("study", type=Path, metavar="STUDY", help="a study's folder, e.g. results/mine")
        one.add_argument("words", nargs="*", metavar="WORD", help=_RUNS)
        one.set_defaults(run=run)
        return one

    shown = command("status", _status, "every run: its state, where it is, how far, what it cost")
    shown.add_argument("--watch", action="store_true", help="stay until nothing is queued or running")
    shown.add_argument("--json", action="store_true", help="for scripts")
    logs = command("logs", _logs, "what runs wrote, and the tracebacks of those that failed")
    logs.add_argument("--follow", action="store_true", help="go on showing what is written (one run)")
    command("cancel", _cancel, "take a study's tasks out of the queue; running ones save their state first")
    again = command(
        "resubmit", _resubmit, "submit what is left to Slurm once more, with the settings of its last submission"
    )
    again.add_argument(
        "--failed", action="store_true", help="only what failed, set aside or not, each with a clean slate"
    )
    return parser


def _status(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from launch.board import board

    if arguments.watch:
        from launch.watch import watch

        now = watch(arguments.study)
    else:
        now = status(arguments.study)
    rows = _chosen(now, arguments.words)
    now = Status(now.study, rows, now.slurm, now.on_gpus)
    if arguments.json:
        print(json.dumps(_plain(now), indent=2))
    else:
        console = Console()
        if not console.is_terminal:
            console = Console(width=160)
        console.print(board(now, console.width))
    return exit_code(now)


def exit_code(now: Status) -> int:
    if now.active or now.counts["open"]:
        return UNFINISHED
    return FAILED if now.counts["failed"] else OK


def _plain(now: Status) -> dict[str, object]:
    runs = [
        {
            "key": row.run.folder.key,
            "trial": row.run.label,
            "batch_size": row.run.config.batch_size.initial,
            "seed": row.run.seed,
            "state": row.state,
            "where": row.where,
            "step": row.step,
            "metric": row.run.config.target.metric,
            "value": row.value,
            "threshold": row.threshold,
            "steps_per_second": row.rate,
            "left_seconds": row.left_seconds,
            "device_seconds": row.device_seconds,
            "note": row.note,
            "folder": str(row.run.folder.path),
        }
        for row in now.rows
    ]
    totals = {"spent_hours": now.spent_hours, "left_hours": now.left_hours, "on_gpus": now.on_gpus}
    return {"study": str(now.study), "slurm": now.slurm, "counts": now.counts, **totals, "runs": runs}


def _chosen(now: Status, words: Sequence[str]) -> list[Row]:
    """The rows whose name has every word."""
    wanted = {word.replace(",", "") for word in words}
    rows = [row for row in now.rows if wanted <= _words(row)]
    if not rows and words:
        raise InputError(f"no run of {now.study} is {' '.join(words)!r}: give {_RUNS}.")
    return rows


def _words(row: Row) -> set[str]:
    run = row.run
    return {*run.label.split(), f"b={run.config.batch_size.label}", f"seed={run.seed}", run.folder.key, row.state}


def _logs(arguments: argparse.Namespace) -> int:
    rows = _chosen(status(arguments.study), arguments.words)
    logs = [row.run.folder.path / "log.txt" for row in rows]
    if arguments.follow:
        if len(rows) != 1:
            raise InputError(f"--follow shows one run, and {len(rows)} match: give {_RUNS}.")
        if not logs[0].exists():
            raise InputError(f"{rows[0].run.name} is {rows[0].state} and has written nothing yet.")
        return subprocess.run(["tail", "-n", "40", "-F", str(logs[0])]).returncode
    last = carriers(submissions(arguments.study))
    for row, log in zip(rows, logs, strict=True):
        print(f"== {row.run.name}: {row.state}  [{row.run.folder.path}]")
        task = last[row.run.id].output() if row.run.id in last else None
        if task is not None:
            print(f"   its task's own output: {task}")
            if row.state == "open" and not log.exists():
                print(task.read_text(errors="replace").rstrip())
        if log.exists():
            print(log.read_text(errors="replace").rstrip())
        failure = row.run.folder.last_failure()
        if failure is not None and row.state in ("failed", "open"):
            print(failure.rstrip())
    return OK


def _cancel(arguments: argparse.Namespace) -> int:
    from launch.control import cancel

    now = status(arguments.study)
    print(cancel(arguments.study, {row.run.id for row in _chosen(now, arguments.words)}))
    return OK


def _resubmit(arguments: argparse.Namespace) -> int:
    from launch.control import resubmit

    now = status(arguments.study)
    rows = [row for row in _chosen(now, arguments.words) if row.state in ("failed", "open")]
    if arguments.failed:
        rows = [row for row in rows if row.state == "failed"]
        for row in rows:
            row.run.folder.forgive()
        if rows and not submissions(arguments.study):
            print(f"{counted(len(rows), 'run')} may be tried again: give the sweep's own command again.")
            return OK
    rows = [row for row in rows if not row.run.set_aside()]
    resubmit(arguments.study, {row.run.id for row in rows})
    return OK


if __name__ == "__main__":
    sys.exit(main())
