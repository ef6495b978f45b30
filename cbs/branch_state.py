"""The state in which a branched run begins."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cbs import checkpoint
from cbs.branch import Branch
from cbs.claim import Claim
from cbs.loop import Progress
from cbs.outcome import METRICS
from cbs.record import RunFolder
from cbs.target import Ask, crossing

State = dict[str, Any]
Train = Callable[[RunFolder, Claim], State]
"""(where, the right to write there) -> the parent's state after the shared steps."""


def shared_state(branch: Branch, step: int, thresholds: Sequence[float], train: Train) -> State:
    """The parent's state after this step, which is trained to it if nobody did, its crossings of these confirmed.

    Raises claim.Busy where another process works on the parent.
    """
    target = branch.parent.target
    confirmations, metric = target.confirmations, METRICS[target.metric]

    def usable(found: State) -> bool:
        """Whether no crossing lacks repeats that need networks of before this state."""
        progress = Progress.from_state(found["progress"])
        crossings = [crossing(progress.evaluations, threshold, confirmations, metric) for threshold in thresholds]
        return all(progress.evaluations[one.index].step == progress.step for one in crossings if isinstance(one, Ask))

    def passed(place: RunFolder) -> bool:
        found = checkpoint.load(place.checkpoint_path)
        return found is not None and (found["progress"]["step"] > step or not usable(found))

    def trained() -> State:
        own, again = branch.folder, branch.again
        if not own.stack_path.exists() and own.progress().get("step", 0) <= step:
            with _claimed(own) as claim:
                if not own.stack_path.exists() and not passed(own):
                    return train(own, claim)
        with _claimed(again) as claim:
            if passed(again):
                checkpoint.remove(again.checkpoint_path)
            return train(again, claim)

    kept = checkpoint.load(branch.path)
    if kept is None or not usable(kept):
        kept = trained()
        checkpoint.save(branch.path, kept)
    return {**kept, "branched_from": {"key": branch.folder.key, "seed": branch.folder.seed, "step": step}}


@contextlib.contextmanager
def _claimed(place: RunFolder) -> Iterator[Claim]:
    claim = Claim.acquire(place.claims_path)
    try:
        yield claim
    finally:
        claim.release()


def begun(fresh: State, parents: State, same_optimizer: bool) -> State:
    """A task's state at a branch: the parent's, with this run's own learning rates, and whatever only it has.

    same_optimizer: whether the parent's moments mean anything to this run's optimizers; else they start from nothing.
    """

    def own(ours: State, theirs: State) -> State:
        return {"state": theirs["state"] if same_optimizer else {}, "param_groups": ours["param_groups"]}

    state = {**fresh, **parents}
    for name in ("optimizer_g", "optimizer_d"):
        state[name] = own(fresh[name], parents[name])
    if "ahead" in fresh["rule"]:  # optimizers of a rule's own
        ahead = [own(*both) for both in zip(fresh["rule"]["ahead"], parents["rule"]["ahead"], strict=True)]
        state["rule"] = {**parents["rule"], "ahead": ahead}
    return state
