"""What an adaptive sweep is told: conf/hydra/sweeper/bisect.yaml, typed and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from cbs.batch_sizes import constant
from cbs.errors import InputError, nearest

# Where no range is given.
RANGE = ("1", "1024")
COSTS = ("seconds", "sfo")


@dataclass(frozen=True)
class Settings:
    """conf/hydra/sweeper/bisect.yaml, typed."""

    width_octaves: float | None
    within: float | None
    half_octaves: bool
    budget_gpu_hours: float | None
    budget_sfo: float | None
    cost: str
    seeds: int
    at_once: int

    @classmethod
    def of(cls, given: dict[str, Any]) -> Settings:
        """Settings from a sweeper's config. Raises InputError where one is unknown, missing or can't be."""
        known = [one.name for one in fields(cls)]
        for name in given:
            if name not in known:
                raise InputError(f"hydra.sweeper.{name} is no setting: {nearest(name, known)}.")
        for name in known:
            if name not in given:
                raise InputError(
                    f"hydra.sweeper.{name} is missing: start from hydra/sweeper=bisect (defaults: [bisect])."
                )
        settings = cls(**given)
        settings.check()
        return settings

    def check(self) -> None:
        """Raise InputError at the first setting that can't be."""
        if self.width_octaves is None and self.within is None:
            raise InputError(
                "hydra.sweeper.width_octaves and within are null: one of them must say when b* is decided."
            )
        for name in ("width_octaves", "within", "budget_gpu_hours", "budget_sfo"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name), "null or ")
        if not isinstance(self.half_octaves, bool):
            raise InputError(f"hydra.sweeper.half_octaves is {self.half_octaves!r}: it must be true or false.")
        if self.cost not in COSTS:
            raise InputError(f"hydra.sweeper.cost is {self.cost!r}: {nearest(str(self.cost), COSTS)}.")
        for name in ("seeds", "at_once"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"hydra.sweeper.{name} is {value!r}: it must be a whole number, 1 or more.")

    @property
    def until(self) -> str:
        """When b* is decided, in words."""
        ends = []
        if self.width_octaves is not None:
            ends.append(
                f"its 95 % set is at most {self.width_octaves:g} octave{'' if self.width_octaves == 1 else 's'} wide"
            )
        if self.within is not None:
            ends.append(f"it costs surely within {100 * self.within:g} % of the least")
        return " or ".join(ends)

    def sizes(self, given: Sequence[str]) -> tuple[int, ...]:
        """The batch sizes that may be tried: octaves, and half-octaves if asked, between the ends of what was given.

        Raises InputError where that is no range.
        """
        ends = [int(constant(value)["initial"]) for value in given]
        first, last = min(ends), max(ends)
        if last < 2 * first:
            told = ", ".join(map(str, ends))
            raise InputError(
                f"batch_size is {told}: an adaptive sweep needs a range of at least an octave to look for b* in, "
                "as in batch_size=2,4,...,1024."
            )
        each = 2 if self.half_octaves else 1
        count = math.floor(each * math.log2(last / first) + 1e-9)
        return tuple(sorted({round(first * 2 ** (k / each)) for k in range(count + 1)}))


def _positive(name: str, value: object, other: str = "") -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:  # type: ignore[operator]
        raise InputError(f"hydra.sweeper.{name} is {value!r}: it must be {other}a number above 0.")
