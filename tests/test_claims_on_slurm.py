"""Claims among the starts of a Slurm job, other machines' clocks, failures that repeat, and full disks."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cbs import checkpoint, claim, record, trial
from cbs.claim import Busy, Claim, Superseded, holder
from cbs.record import RunFolder
from cbs.schema import Config

Tiny = Callable[..., Config]


def start_of_a_job(patch: pytest.MonkeyPatch, job: str, restarts: int) -> None:
    patch.setenv("SLURM_JOB_ID", job)
    patch.setenv("SLURM_CLUSTER_NAME", "lab")
    patch.setenv("SLURM_RESTART_COUNT", str(restarts))


def test_a_later_start_of_a_job_supersedes_the_earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_of_a_job(monkeypatch, "12", 0)
    first = Claim.acquire(tmp_path)
    with pytest.raises(Busy):
        Claim.acquire(tmp_path)
    start_of_a_job(monkeypatch, "13", 5)  # another job, however often started
    with pytest.raises(Busy):
        Claim.acquire(tmp_path)
    start_of_a_job(monkeypatch, "12", 1)
    second = Claim.acquire(tmp_path)
    with pytest.raises(Superseded):
        first.check()
    second.check()
    start_of_a_job(monkeypatch, "12", 0)  # the earlier one does not come back
    with pytest.raises(Busy):
        Claim.acquire(tmp_path)


def test_a_revoked_claim_is_free_and_its_owner_sees_it(tmp_path: Path) -> None:
    owner = Claim.acquire(tmp_path)
    claim.revoke(tmp_path, owner.number)
    assert holder(tmp_path) is None
    with pytest.raises(Superseded):
        owner.check()
    newer = Claim.acquire(tmp_path)
    claim.revoke(tmp_path, owner.number)  # by somebody who judged the first, and was slow
    newer.check()


def test_a_link_whose_answer_was_lost_is_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)  # as a client does that never heard of its success

    monkeypatch.setattr(os, "link", twice)
    assert claim.link_new(tmp_path / "0001.json", b"mine")
    assert not claim.link_new(tmp_path / "0001.json", b"another's")


def test_a_job_knows_its_later_start_from_other_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_of_a_job(monkeypatch, "12", 1)
    Claim.acquire(tmp_path)
    assert not claim.job_restarted(tmp_path)
    start_of_a_job(monkeypatch, "12", 0)
    assert claim.job_restarted(tmp_path)
    start_of_a_job(monkeypatch, "13", 0)
    assert not claim.job_restarted(tmp_path)


def test_another_machines_claim_is_judged_by_the_clock_that_stamped_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Claim.acquire(tmp_path)
    raw = json.loads(owner.path.read_text())
    owner.path.write_text(json.dumps({**raw, "machine": "elsewhere/1"}))
    monkeypatch.setattr(time, "time", lambda: 4e9)  # this machine's clock is far ahead of the file server's
    assert holder(tmp_path) is not None
    touched = owner.path.stat().st_mtime
    os.utime(owner.path, (touched, touched - claim.STALE_SECONDS - 5))
    assert holder(tmp_path) is None


def test_one_process_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    with claim.alone(tmp_path):
        with pytest.raises(Busy):
            Claim.acquire(tmp_path)
    Claim.acquire(tmp_path)


def test_failures_alike_are_counted_from_the_last(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, 0)
    assert folder.failed_alike() == 0
    for text in ("Traceback\nOSError: away\n", "…\nRuntimeError: at step 12\n", "…\nRuntimeError: at step 345\n"):
        folder.write_failure(text)
    assert folder.failed_alike() == 2
    for again in (3, 6):
        folder.forgive()
        assert folder.failed_alike() == 0
        assert folder.last_failure() is None
        assert len(list((folder.path / "failures").iterdir())) == again  # nothing recorded is lost
        for _ in range(3):
            folder.write_failure("RuntimeError: again\n")


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_for_a_while_changes_no_record(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("batch_size=16", "checkpoint_minutes=0")
    alone = trial.run(tiny("batch_size=16", f"paths.results={tmp_path}/alone"), 0)
    writes = record.write_atomic
    calls: list[int] = []

    def sometimes(path: Path, data: bytes, sync: bool = True) -> None:
        if path.name in ("trajectory.jsonl", "progress.json") or "checkpoint" in path.name:
            calls.append(1)
            if len(calls) % 3 == 1 and len(calls) < 7:
                full()
        writes(path, data, sync)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "write_atomic", sometimes)
        patch.setattr(checkpoint, "write_atomic", sometimes)
        found = trial.run(config, 0)
    assert len(calls) > 6
    assert found.outcomes == alone.outcomes


def test_a_disk_that_stays_full_leaves_the_run_where_it_was(tiny: Tiny) -> None:
    config = tiny("batch_size=16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", full)
        with pytest.raises(OSError, match="No space"):
            trial.run(config, 0)
    folder = RunFolder(next(config.study_dir.glob("trials/*")), 0)
    assert folder.result() is None
    assert holder(folder.claims_path) is None
    assert trial.run(config, 0).outcomes


def test_what_killed_attempts_left_half_written_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"x": 1})
    for litter in ("next-abcd-checkpoint.pt", ".checkpoint.pt.123-abcd.tmp", ".next-ab-checkpoint.pt.1-a.tmp"):
        (tmp_path / litter).write_bytes(b"half")
    assert checkpoint.load(path) == {"x": 1}
    assert len(list(tmp_path.iterdir())) == 4  # a superseded attempt may be at it yet
    for litter in tmp_path.glob("*checkpoint.pt*"):
        old = litter.stat().st_mtime - claim.STALE_SECONDS - 5
        os.utime(litter, (old, old))
    for litter in tmp_path.glob(".*"):
        os.utime(litter, (old, old))
    assert checkpoint.load(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
