"""A dry run: the sbatch script and the runs of each task, with what they are expected to take."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from cbs.config import Config
from launch.plan import runs
from launch.settings import Settings
from launch.slurm import Plan, parameters, plan


def show(configs: Sequence[Config], settings: Settings) -> None:
    """Print what hydra/launcher=slurm would submit. Slurm isn't asked: it need not even be here."""
    fitted = settings.fitted(configs)
    for study in dict.fromkeys(config.study_dir for config in configs):
        now = plan(runs([config for config in configs if config.study_dir == study]), fitted, None)
        print(now.opening())
        if now.loads:
            print(script(now, fitted, study.name))
            print(_table(now, fitted))


def script(now: Plan, settings: Settings, name: str) -> str:
    """The sbatch file of the first array, as submitit writes it."""
    from submitit.slurm.slurm import _make_sbatch_string

    given = {**parameters(settings), "job_name": f"cbs-{name}"}
    count = len(now.loads) if len(now.loads) > 1 else None
    folder = f"{now.found[0].run.config.study_dir}/submissions/NNNN"
    return _make_sbatch_string(
        command=f"python -u -m submitit.core._submit {folder}", folder=folder, map_count=count, **given
    )


def _table(now: Plan, settings: Settings) -> str:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("task", "runs", "at once", "expected", "GPU hours"):
        table.add_column(title, justify="left" if title == "runs" else "right")
    for number, load in enumerate(now.loads):
        names = "\n".join(f"{now.found[place].run.name}  {_spoken(now.found[place].seconds)}" for place in load.runs)
        cost = f"{load.hours * settings.gpus_per_task:.1f}"
        table.add_row(str(number), names, str(load.lanes), _spoken(3600 * load.hours), cost)
    hours = sum(load.hours for load in now.loads)
    tasks = f"{len(now.loads)} task{'' if len(now.loads) == 1 else 's'}"
    known = sum(one.known for one in now.found)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
        console.print(
            f"{len(now.found)} runs in {tasks}: at most {hours:.1f} hours of tasks, "
            f"{hours * settings.gpus_per_task:.1f} GPU hours, where every run takes its whole budget "
            f"({known} of {len(now.found)} estimates from this sweep's records, the others from hydra.launcher.step_ms "
            "and image_ms). Nothing was submitted.",
            highlight=False,
        )
    return capture.get()


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
