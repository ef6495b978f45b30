"""A dry run: the sbatch script and the runs of each task, with what they are expected to take."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from cbs.errors import counted
from cbs.schema import Config
from launch.display import spoken
from launch.plan import Run, runs
from launch.settings import Settings
from launch.slurm import Plan, absolute, parameters, plan


def show(configs: Sequence[Config], settings: Settings) -> None:
    """Print what hydra/launcher=slurm would submit. Slurm isn't asked: it need not even be here."""
    fitted = settings.fitted(configs)
    for study in dict.fromkeys(config.study_dir for config in configs):
        show_runs(runs([absolute(config) for config in configs if config.study_dir == study]), fitted)


def show_runs(wanted: list[Run], fitted: Settings) -> None:
    """The same of these runs of one study. fitted: settings, to the runs."""
    now = plan(wanted, fitted, None)
    print(now.opening())
    if now.loads:
        print(script(now, fitted, wanted[0].config.study_dir.name))
        print(_table(now, fitted))


def script(now: Plan, settings: Settings, name: str) -> str:
    """The sbatch file of the first array, as submitit writes it."""
    from submitit.slurm.slurm import _make_sbatch_string

    given = {**parameters(settings), "job_name": f"cbs-{name}"}
    count = len(now.loads) if len(now.loads) > 1 else None
    folder = f"{now.found[0].run.config.study_dir}/submissions/NNNN"
    return _make_sbatch_string(
        command=f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {folder}",
        folder=folder,
        map_count=count,
        **given,
    )


def _table(now: Plan, settings: Settings) -> str:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("task", "runs", "at once", "expected", "GPU time"):
        table.add_column(title, justify="left" if title == "runs" else "right")
    for number, load in enumerate(now.loads):
        names = "\n".join(f"{now.found[place].run.name}  {spoken(now.found[place].seconds)}" for place in load.runs)
        cost = spoken(3600 * load.hours * settings.gpus_per_task) if settings.gpus_per_task else "–"
        table.add_row(str(number), names, str(load.lanes), spoken(3600 * load.hours), cost)
    hours = sum(load.hours for load in now.loads)
    known = sum(one.known for one in now.found)
    arithmetic = "the networks' arithmetic (hydra.launcher.step_ms, tflops)"
    sources = "this sweep's records" if known else arithmetic
    if 0 < known < len(now.found):
        sources = f"this sweep's records for {known} of them, {arithmetic} for the others"
    cost = spoken(3600 * hours) + (
        f", {spoken(3600 * hours * settings.gpus_per_task)} of GPU time" if settings.gpus_per_task else ""
    )
    what = f"{counted(len(now.found), 'run')} in {counted(len(now.loads), 'task')}"
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
        console.print(
            f"{what}: at most {cost}, if every run takes all the steps it may; "
            f"estimated from {sources}. Nothing was submitted.",
            highlight=False,
        )
    return capture.get()
