"""Update rules by name: how a step moves both networks, whatever they are."""

from __future__ import annotations

from collections.abc import Sequence

from cbs.options import ExtragradientConfig, SRFBConfig, SVREConfig, UpdateConfig
from cbs.updates.extragradient import Extragradient
from cbs.updates.game import Player
from cbs.updates.rule import SRFB, Alternating, Rule, Simultaneous
from cbs.updates.svre import SVRE


def build(config: UpdateConfig, players: Sequence[Player], seed: int) -> Rule:
    """A config's rule for these players, at its beginning. seed: the run's."""
    if isinstance(config, SVREConfig):
        past = config.extrapolation == "past"
        return SVRE(players, past, config.snapshot_factor, config.snapshot_micro_batch, seed)
    if isinstance(config, ExtragradientConfig):
        return Extragradient(players, config.extrapolation == "past")
    if isinstance(config, SRFBConfig):
        return SRFB(players, config.relaxation)
    return Simultaneous(players) if config.name == "simultaneous" else Alternating(players)
