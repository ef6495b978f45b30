"""Closed-form lower bounds of the critical batch size (Sato & Iiduka, ICML 2023, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cbs.errors import InputError, nearest

OPTIMIZERS = ("adam", "adabelief", "rmsprop")


def factor(
    optimizer: str, lr: float, parameters: int, dataset_size: int, beta1: float = 0.5, beta2: float = 0.999
) -> float:
    """f in b* ≥ r·f, r = σ_G²/ε_G³: all that is known of one optimizer, model and data set.

        Adam:      α |S| / ((1−β1)³ √(Θ/(1−β2)))
        AdaBelief: α |S| / ((1−β1)³ √(4Θ/(1−β2)))
        RMSProp:   α |S| / √Θ

    lr: the generator's rate α. parameters: the generator's Θ. dataset_size: |S| in images.
    Raises InputError at an optimizer that has no closed form, or a value outside its range.
    """
    if optimizer not in OPTIMIZERS:
        raise InputError(f"optimizer is {optimizer!r}: {nearest(optimizer, OPTIMIZERS)}.")
    for name, value in (("lr", lr), ("params", parameters), ("dataset-size", dataset_size)):
        if not (value > 0 and math.isfinite(value)):
            raise InputError(f"{name} is {value!r}: it must be a finite number above 0.")
    for name, value in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= value < 1:
            raise InputError(f"{name} is {value!r}: it must be at least 0 and below 1.")
    if optimizer == "rmsprop":
        return lr * dataset_size / math.sqrt(parameters)
    theta = 4 * parameters if optimizer == "adabelief" else parameters
    return lr * dataset_size / ((1 - beta1) ** 3 * math.sqrt(theta / (1 - beta2)))


def power_of_two(b: float) -> int:
    """The exponent of the power of two nearest to b in plain distance, ties down, as the slides name it."""
    low = max(0, math.floor(math.log2(b)))
    return low if b - 2**low <= 2 ** (low + 1) - b else low + 1


def estimated(
    known: float, b_star: float | None, ratio: float | None, ci: Sequence[float] | None
) -> dict[str, float | list[float]]:
    """r from a measured b*, or b* from r, with the interval carried through; known: what `factor` gives.

    Raises InputError where a value isn't above 0, or its interval doesn't hold it.
    """
    for name, value in (("b-star", b_star), ("ratio", ratio)):
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"{name} is {value!r}: it must be a finite number above 0.")
    given = b_star if b_star is not None else ratio
    assert given is not None
    if ci and not 0 < ci[0] <= given <= ci[1] < float("inf"):
        raise InputError(f"ci is {ci[0]:g} {ci[1]:g}: it must hold the value {given:g}, low end first.")
    scale, name = (1 / known, "ratio") if b_star is not None else (known, "b_star")
    answer: dict[str, float | list[float]] = {name: given * scale}
    if ci:
        answer[f"{name}_ci"] = [end * scale for end in ci]
    if name == "b_star":
        answer["power_of_two"] = power_of_two(max(given * scale, 1.0))
    return answer
