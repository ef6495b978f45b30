"""Files that are whole or absent, claims that exclude, checkpoints that are never half-used."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cbs import checkpoint, claim
from cbs.claim import Busy, Claim, Superseded, holder
from cbs.outcome import Censored, Diverged, Evaluation, Reached
from cbs.record import RecordError, Result, RunFolder, read_json, write_atomic, write_json

RESULT = Result(
    key="k",
    seed=3,
    outcomes={50.0: Reached(10, 20), 40.0: Censored(100), 30.0: Diverged(7)},
    last_step=100,
    seconds={"training": 1.5, "evaluating": 0.5},
    parameters={"generator": 5, "discriminator": 6},
    dataset={"name": "digits", "count": 1797, "sha256": "00"},
    features_digest="ff",
)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"schema": 1, "x": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"schema": 1, "x": 2})
    assert read_json(path)["x"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_result_survives_a_round_trip(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, 3)
    assert folder.result() is None
    write_json(folder.result_path, RESULT.to_dict())
    assert folder.result() == RESULT
    assert RESULT.settles((50.0,), 10**9)
    assert RESULT.settles((40.0, 30.0), 100)
    assert not RESULT.settles((40.0,), 101)
    assert not RESULT.settles((45.0,), 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "is damaged"), ('{"schema": 2}', "has schema 2"), ("[]", "has schema None"), ("{}", "has schema None")],
)
def test_a_damaged_or_foreign_record_is_refused(content: str, words: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, 0)
    write_atomic(folder.result_path, content.encode())
    with pytest.raises(RecordError, match=words):
        folder.result()


def test_a_trajectory_survives_a_round_trip(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, 0)
    first, second = Evaluation(5, 10, 0.25, 40.5, (41.0,), {"loss": 0.1}), Evaluation(6, 12, 0.5, 39.5)
    rows = [first, replace(second, sampling_error=0.2, extra={"kid": 0.01})]
    folder.write_trajectory(rows)
    assert folder.trajectory() == rows
    # As it was written before there was a sampling error.
    old = {"schema": 1, "step": 6, "samples": 12, "seconds": 0.5, "value": 39.5, "repeats": [], "losses": {}}
    write_atomic(folder.trajectory_path, json.dumps(old).encode())
    assert folder.trajectory() == [second]
    write_atomic(folder.trajectory_path, b'{"schema": 1, "st')
    with pytest.raises(RecordError, match="is damaged"):
        folder.trajectory()


def test_a_claim_excludes_and_is_released(tmp_path: Path) -> None:
    first = Claim.acquire(tmp_path)
    assert holder(tmp_path) is not None
    with pytest.raises(Busy):
        Claim.acquire(tmp_path)
    first.release()
    assert holder(tmp_path) is None
    assert Claim.acquire(tmp_path).number == 2


def _claim_and_die(folder: str) -> None:
    Claim.acquire(Path(folder))
    os._exit(0)


def test_a_dead_owners_claim_is_taken_over(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_claim_and_die, args=(str(tmp_path),))
    process.start()
    process.join()
    assert (tmp_path / "0001.json").exists()
    assert Claim.acquire(tmp_path).number == 2


def test_a_process_number_that_is_used_again_is_not_the_owner(tmp_path: Path) -> None:
    owner = Claim.acquire(tmp_path)
    content = json.loads(owner.path.read_text())
    owner.path.write_text(json.dumps({**content, "started": content["started"] - 100}))
    assert Claim.acquire(tmp_path).number == 2


def test_another_machines_claim_is_stale_when_it_is_not_touched(tmp_path: Path) -> None:
    owner = Claim.acquire(tmp_path)
    content = json.loads(owner.path.read_text())
    owner.path.write_text(json.dumps({**content, "machine": "elsewhere", "pid": 1}))
    with pytest.raises(Busy):
        Claim.acquire(tmp_path)
    owner.check()
    past = time.time() - claim.STALE_SECONDS - 1
    os.utime(owner.path, (past, past))
    assert Claim.acquire(tmp_path).number == 2
    with pytest.raises(Superseded):
        owner.check()


def _race(folder: str, start: float) -> bool:
    time.sleep(max(0.0, start - time.time()))
    try:
        Claim.acquire(Path(folder))
        time.sleep(1.0)
        return True
    except Busy:
        return False


def test_only_one_of_many_wins(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(6) as pool:
        pool.starmap(_race, [(str(tmp_path / "warm-up"), 0.0)] * 6, chunksize=1)
        for round_ in range(5):
            start = time.time() + 0.3
            won = pool.starmap(_race, [(str(tmp_path / str(round_)), start)] * 6, chunksize=1)
            assert sum(won) == 1


def state(value: float) -> dict:
    return {"x": torch.full((1000,), value), "n": 3, "rows": [{"a": 1.5}]}


def test_checkpoints_keep_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    assert checkpoint.load(path) is None
    checkpoint.save(path, state(1.0))
    checkpoint.save(path, state(2.0))
    found = checkpoint.load(path)
    assert found is not None
    assert torch.equal(found["x"], state(2.0)["x"])
    assert found["rows"] == [{"a": 1.5}]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, state(1.0))
    checkpoint.save(path, state(2.0))
    raw = path.read_bytes()
    flipped = raw[:2000] + bytes([raw[2000] ^ 1]) + raw[2001:]
    path.write_bytes({"truncate": raw[:-7], "flip": flipped, "empty": b""}[damage])
    found = checkpoint.load(path)
    assert found is not None
    assert torch.equal(found["x"], state(1.0)["x"])
    assert len(list(tmp_path.glob("damaged-*"))) == 1
    checkpoint.remove(path)
    assert checkpoint.load(path) is None


def test_a_live_claim_is_touched_until_it_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_TOUCH_SECONDS", 0.05)
    owner = Claim.acquire(tmp_path)
    past = time.time() - claim.STALE_SECONDS - 1
    os.utime(owner.path, (past, past))
    deadline = time.monotonic() + 10
    while owner.path.stat().st_mtime < time.time() - 5:
        assert time.monotonic() < deadline, "never touched"
        time.sleep(0.02)
    owner.release()
    time.sleep(0.2)
    os.utime(owner.path, (past, past))
    time.sleep(0.3)
    assert owner.path.stat().st_mtime < time.time() - 5
