"""What stands between the shell and a trial: arguments in, exit codes and sentences out."""

from __future__ import annotations

import importlib.util
import re
import signal
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbs.batch_sizes import quoted
from cbs.config import CONF_DIR, typed
from cbs.errors import InputError, nearest
from cbs.key import trial_folder
from cbs.outcome import told

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from cbs.parallel import Team
    from cbs.record import Result
    from cbs.schema import Config


_ROOT = Path(__file__).resolve().parent.parent
OK, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130


def main(argv: list[str], environ: MutableMapping[str, str]) -> int:
    """Run Hydra's application; every expected error becomes one sentence on stderr."""
    if str(_ROOT) not in sys.path:  # an editable install: Hydra finds hydra_plugins by walking the path
        sys.path.append(str(_ROOT))
    environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that errors reach us instead of Hydra's own printer
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    composed: list[DictConfig] = []

    def take(config: DictConfig) -> None:
        launcher = HydraConfig.get().runtime.choices.get("hydra/launcher")
        if launcher != "local":
            raise InputError(
                f"hydra/launcher is {launcher!r}: add -m, as for a sweep; without it a trial runs right here."
            )
        composed.append(config)

    # Options may stand anywhere: argparse alone wants them before the settings, or after them all.
    argv[1:] = sorted((quoted(argument) for argument in argv[1:]), key=lambda one: not _is_option(one))
    application = hydra.main(config_path=str(CONF_DIR), config_name="config", version_base="1.3")(take)
    try:
        _check_launch()
        application()  # a sweep runs in here, through its launcher
        return _one_trial(composed[0]) if composed else OK
    except InputError as error:
        return _say(str(error), environ)
    except (HydraException, OmegaConfBaseException) as error:
        return _say(sentence(error), environ)
    except YAMLError as error:
        return _say(f"a config file is no YAML: {' '.join(str(error).split())}.", environ)
    except SystemExit as error:  # the launcher's and Hydra's own ways out
        return error.code if isinstance(error.code, int) else BAD_INPUT
    except KeyboardInterrupt:
        print("cbs: stopped. Give the same command again to go on.", file=sys.stderr)
        return STOPPED


def _is_option(argument: str) -> bool:
    """Whether an argument is an option that brings its value with it, if it has one."""
    return argument in ("-m", "--multirun") or (argument.startswith("--") and "=" in argument)


def _check_launch() -> None:
    """Raise InputError where another package named `launch` hides ours."""
    spec = importlib.util.find_spec("launch")
    found = spec.origin if spec is not None else None
    if found is None or Path(found).resolve().parent.parent != _ROOT:
        raise InputError(
            f"the Python package 'launch' found first is {found}, not the one beside cbs in {_ROOT}: "
            "run from another folder, or take that package out of PYTHONPATH."
        )


def _say(text: str, environ: Mapping[str, str]) -> int:
    if environ.get("RANK", "0") != "0":
        return OK  # rank 0 was given the same arguments; torchrun ends it unheard where another one fails first
    print(f"cbs: {text}", file=sys.stderr)
    return BAD_INPUT


def sentence(error: BaseException) -> str:
    """A composition error of Hydra's or OmegaConf's in one sentence, with the nearest names."""
    options = getattr(error, "options", None)
    missing = getattr(error, "missing_cfg_file", None)
    if missing and options:
        group, _, wrong = missing.removesuffix(".yaml").rpartition("/")
        if group == "batch_size":
            schedules = nearest(wrong, (name for name in options if not name.isdigit()))
            return f"batch_size is {wrong!r}: it must be a whole number, 1 or more, or a schedule; {schedules}."
        return f"{group} is {wrong!r}: {nearest(wrong, options)}."
    from hydra.errors import OverrideParseException

    cause: Any = error.__cause__ if isinstance(error.__cause__, Exception) else error
    full_key, parent = getattr(cause, "full_key", None), getattr(cause, "parent_node", None)
    first = " ".join(str(cause).split("\n")[0].split())
    if full_key and parent is not None and "not in struct" in str(cause):
        key = full_key.rpartition(".")[2]
        return f"{full_key} is no setting: {nearest(key, map(str, parent))}."
    if "\u2026" in str(error):
        return "'\u2026' is one character: write three dots, as in batch_size=2,4,...,1024."
    if "mbiguous value for argument" in str(error):
        argument = re.search(r"'(.*?)'", str(error))
        return f"{argument.group(1) if argument else 'a setting'} has several values: add -m to sweep over them."
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} can't be read as setting=value: {first}."
    lead = " ".join(str(error).split("\n")[0].split())
    return lead if lead == first or not first else f"{lead.rstrip('.:')}: {first}"


def _one_trial(composed: DictConfig) -> int:
    """Run one trial, its seeds one after the other, in this process or as one of those that share it."""
    config = typed(composed)
    from cbs import parallel

    with parallel.joined(config) as team:
        return _lead(config, team) if team.rank == 0 else _follow(config, team)


def _follow(config: Config, team: Team) -> int:
    from cbs import trial

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # rank 0 hears it too, and tells when to end
    try:
        trial.follow(config, team)
    except InputError as error:
        print(f"cbs: {error}", file=sys.stderr)
        return BAD_INPUT
    return OK


def _lead(config: Config, team: Team) -> int:
    from cbs import trial
    from cbs.claim import Busy
    from cbs.record import RunFolder
    from cbs.schema import Request
    from cbs.stack import mates

    trial.preflight(config)
    stop: list[int] = []

    def asked_to_stop(received: int, _: object) -> None:
        if stop:  # the second time, at once
            raise KeyboardInterrupt
        stop.append(received)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, asked_to_stop)
    folder, waiting, metric = trial_folder(config), list(range(config.seeds)), config.target.direction
    name = f"b={config.batch_size.label} {config.optimizer.name} seed"
    printers = {seed: _printer(f"{name} {seed}", config) for seed in waiting}

    def report(seed: int, now: Any) -> None:
        if seed in printers:  # a stack may have more members
            printers[seed](now)

    def ended(seed: int, result: Result) -> None:
        if seed in waiting and request.settled_by(result):
            waiting.remove(seed)
            print(f"{name} {seed}: {metric.title} {told(result.outcomes, metric)}  [{folder}]")

    request = Request.of(config)
    while waiting:
        seeds = [run.seed for run in mates(config, [RunFolder(folder, seed) for seed in waiting])]
        try:
            if len(seeds) > 1:
                trial.run_together(config, seeds, 1, report, lambda: bool(stop), ended=ended)
            else:
                ended(seeds[0], trial.run(config, seeds[0], printers[seeds[0]], lambda: bool(stop), team))
        except trial.Interrupted as interrupted:
            print(
                f"cbs: {name} {_listed(seeds)}: {interrupted}. Give the same command again to go on.", file=sys.stderr
            )
            return STOPPED
        except Busy as busy:
            print(f"cbs: {name} {_listed(seeds)}: {busy}.", file=sys.stderr)
            return FAILED
    return OK


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))


def _printer(name: str, config: Config) -> Any:
    budget, metric = config.budget, config.target.direction
    seen: list[float | None] = [None]

    def report(now: Any) -> None:
        if now.value is not None and now.value != seen[0]:
            seen[0] = now.value
            print(
                f"{name}: step {now.step:,} of at most {budget:,}, {metric.title} {metric.shown(now.value)}", flush=True
            )

    return report
