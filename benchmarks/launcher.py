"""What a sweep costs beside its training: a thousand finished trials, given for the first and the second time.

`python -m benchmarks.launcher`, or as a part of `make bench`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_dir

from cbs.config import CONF_DIR, typed
from cbs.key import trial_folder
from cbs.metrics import weights
from cbs.outcome import Evaluation, Reached
from cbs.record import Result, RunFolder, write_json
from cbs.schedules import BatchSizeConfig
from cbs.schema import Config, Request
from cbs.trial import write_trial

_ROOT = Path(__file__).resolve().parent.parent
_OPTIMIZERS = ("adam", "adabelief")
_SIZES = [2**k for k in range(1, 11)]
_RATES = [f"0.{rate:04d}" for rate in range(1, 51)]


def _trials(here: list[str]) -> list[Config]:
    """Two optimizers, ten batch sizes, fifty learning rates; not by way of the launcher."""
    found = []
    for optimizer in _OPTIMIZERS:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            base = typed(compose("config", overrides=[f"optimizer={optimizer}", *here]))
        for b in _SIZES:
            size = BatchSizeConfig.constant(b)
            rates = [replace(base.optimizer, lr_generator=float(rate)) for rate in _RATES]
            found += [replace(base, batch_size=size, optimizer=rate) for rate in rates]
    return found


def finish(config: Config) -> None:
    """Leave the record of a run that has reached its target."""
    folder = RunFolder(trial_folder(config), 0)
    write_trial(config, folder.trial)
    last = Request.of(config).last_step
    result = Result(
        key=folder.key,
        seed=0,
        outcomes={threshold: Reached(last - 100, last) for threshold in config.target.thresholds},
        last_step=last,
        seconds={"training": 60.0, "evaluating": 5.0},
        parameters={"generator": 6000, "discriminator": 3000},
        dataset={"name": "digits", "count": 1797, "sha256": "0" * 64},
        features_digest=weights.digest(config.target.features, Path(config.paths.data)),
    )
    write_json(folder.result_path, result.to_dict())
    folder.write_trajectory([Evaluation(last, last * config.batch_size.initial, 65.0, 3.9)])


def _given(arguments: list[str], folder: Path) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "cbs.run", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
    )
    took = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    assert "1,000 runs: 1,000 finished already, 0 to do" in done.stderr, done.stderr
    return took


def report() -> None:
    """Print both times, as Markdown."""
    with tempfile.TemporaryDirectory() as name:
        here = [f"paths.results={name}/results", f"paths.data={name}/data"]
        for config in _trials(here):
            finish(config)
        sizes = ",".join(map(str, _SIZES))
        rates = "optimizer.lr_generator=" + ",".join(_RATES)
        sweep = ["-m", *here, f"optimizer={','.join(_OPTIMIZERS)}", f"batch_size={sizes}", rates]
        first = _given(sweep, Path(name))
        again = [_given(sweep, Path(name)) for _ in range(3)]
        kept = json.loads((Path(name) / "results" / "sweep" / "composed.json").read_text())["configs"]
        assert len(kept) == 1000
    second = sorted(again)[1]
    print("1,000 finished trials, from the command's start to its end, its table of results included:")
    print(f"{first:.1f} s the first time, {second:.1f} s the second (median of 3): {first / second:.1f}×", flush=True)


if __name__ == "__main__":
    report()
