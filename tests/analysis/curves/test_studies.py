"""Which runs of a study make one curve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from analysis.curves.studies import from_study, read_study
from cbs.labels import labels
from cbs.schema import ADDED_TO_GROUPS


def test_what_earlier_versions_did_not_know_belongs_to_the_same_curve(study: Path) -> None:
    """And arithmetic that does shape a trajectory makes another one."""
    paths = sorted(study.glob("trials/*/trial.yaml"))
    raw = {path: yaml.safe_load(path.read_text()) for path in paths}
    adams = [path for path in paths if raw[path]["config"]["optimizer"]["name"] == "adam"]
    old = raw[adams[0]]["config"]
    for name in ("precision", "micro_batch"):
        del old[name]
    for group, added in ADDED_TO_GROUPS.items():
        for name in added:
            del old[group][name]
    adams[0].write_text(yaml.safe_dump(raw[adams[0]]))
    assert [(c.label, len(c.frame)) for c in from_study(study)] == [("adam", 6), ("rmsprop", 6)]
    for path, name, value in ((adams[1], "precision", "bf16"), (adams[2], "micro_batch", 2)):
        raw[path]["config"][name] = value
        path.write_text(yaml.safe_dump(raw[path]))
    found = {c.label: len(c.frame) for c in from_study(study)}
    shapes = ("fp32 micro_batch=None", "bf16 micro_batch=None", "fp32 micro_batch=2")
    assert found == {**{f"adam precision={shape}": 2 for shape in shapes}, "rmsprop": 6}


def test_metrics_on_the_side_make_no_other_curve(study: Path) -> None:
    run = read_study(study)[0]
    target = {**run.config["target"], "extra": ["kid"]}
    other = replace(run, config={**run.config, "target": target})
    assert other.group == run.group
    assert labels([run.config, other.config]) == ["adam", "adam"]
    assert replace(run, config={**run.config, "target": {**target, "samples": 5}}).group != run.group


def test_a_curve_holds_any_number_of_processes_unless_each_normalises_apart(study: Path) -> None:
    """Records that know neither setting are one process's."""
    run = read_study(study)[0]

    def group(n: int, batch_norm: str) -> str:
        model = {**run.config["model"], "batch_norm": batch_norm}
        return replace(run, config={**run.config, "gpus_per_trial": n, "model": model}).group

    del run.config["gpus_per_trial"], run.config["model"]["batch_norm"]
    assert {run.group, group(1, "replica"), group(4, "global")} == {run.group}
    assert len({run.group, group(2, "replica"), group(4, "replica")}) == 3
