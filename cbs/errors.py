"""Bad input, as one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What was asked for can't be done: one sentence naming the field, the value and what is allowed."""


def nearest(wrong: str, known: Iterable[str]) -> str:
    """The words of `known` that `wrong` may have meant, as the end of a sentence."""
    known = sorted(known)
    if not known:
        return "there is none; + before its name adds one"
    close = difflib.get_close_matches(wrong, known, n=3, cutoff=0.5)
    allowed = f"allowed: {', '.join(known)}"
    return f"did you mean {' or '.join(close)}? ({allowed})" if close else allowed


def counted(number: int, thing: str) -> str:
    """1 run, 2 runs."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
