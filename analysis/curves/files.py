"""Curves from a frame, a CSV or a Parquet file with one row per run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.curves.curve import COLUMNS, FACTS, OUTCOMES, SPENT, Curve
from cbs.errors import InputError, nearest

NEEDED = ("batch_size", "steps", "outcome")
# Rows that agree in these make one curve.
APART = ("curve", "optimizer", "threshold")


def from_file(path: Path | str) -> list[Curve]:
    """Curves from a CSV or Parquet file with the columns of `from_frame`.

    Raises InputError naming the file, the column and the line that can't be used.
    """
    path = Path(path)
    read, kind = (pd.read_parquet, "Parquet") if path.suffix in (".parquet", ".pq") else (pd.read_csv, "CSV")
    try:
        frame = read(path)
    except ImportError as error:
        raise InputError(f"{path} needs pyarrow: pip install 'cbs-gan[parquet]'.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as {kind} ({error}).") from error
    return from_frame(frame, str(path), first_line=2)


def from_frame(frame: pd.DataFrame, name: str = "the frame", first_line: int = 0) -> list[Curve]:
    """One curve per `curve`, `optimizer` and `threshold` of a frame with one row per run.

    Columns batch_size, steps, outcome (reached, censored or diverged); optionally seed, lower, the three
    above, what closed forms need: lr_generator, beta1, beta2, parameters, dataset_size, and seconds: of
    training until `steps`, on a device of its own. lower: the last evaluation above the target; 0 where the
    first one was below already; empty or absent where `steps` is exact. Raises InputError naming the column
    and the row, counted from first_line, that can't be used.
    """
    frame = _checked(frame, name, first_line)
    apart = [column for column in APART if column in frame]
    if not apart:
        return [Curve("", "all", frame[list(COLUMNS)].reset_index(drop=True), _facts(frame), spent=_spent(frame))]
    curves = []
    many = frame["threshold"].nunique() > 1 if "threshold" in frame else False
    for values, part in frame.groupby(apart, sort=False, dropna=False):
        told = {k: v for k, v in zip(apart, values, strict=True) if not pd.isna(v) and v != ""}
        threshold = float(told["threshold"]) if "threshold" in told else None
        words = [str(told[k]) for k in ("curve", "optimizer") if k in told]
        label = " ".join([*words, *([f"≤ {threshold:g}"] if many and threshold is not None else [])])
        kept = part[list(COLUMNS)].reset_index(drop=True)
        optimizer, facts = str(told.get("optimizer", "")), _facts(part)
        curves.append(Curve(optimizer, label or "all", kept, facts, threshold, spent=_spent(part)))
    return curves


def _spent(part: pd.DataFrame) -> pd.DataFrame | None:
    """What a step took of each run, where the frame has `seconds`."""
    known = part[part["seconds"].notna()] if "seconds" in part else part[:0]
    if known.empty:
        return None
    a_step = known["seconds"] / known["steps"]
    columns = {"device": "", "seconds": a_step, "device_seconds": a_step, "joules": math.nan}
    return known[["batch_size", "seed"]].assign(**columns).reset_index(drop=True)[list(SPENT)]


def _facts(part: pd.DataFrame) -> dict[str, Any]:
    found = {k: part[k].dropna().unique() for k in FACTS if k in part}
    return {k: float(v[0]) for k, v in found.items() if len(v) == 1}


def _checked(frame: pd.DataFrame, name: str, first_line: int) -> pd.DataFrame:
    """The frame with numbers as numbers and every optional column of a run; InputError at the first wrong row."""
    for column in NEEDED:
        if column not in frame:
            raise InputError(f"{name} has no column {column!r}: it needs {', '.join(NEEDED)}.")
    if frame.empty:
        raise InputError(f"{name} has no rows.")
    frame = frame.reset_index(drop=True)
    for column in ("batch_size", "steps", "lower", "threshold", "seconds", *FACTS):
        if column in frame:
            frame[column] = _numbers(frame[column], name, first_line)
    frame["outcome"] = frame["outcome"].fillna("").astype(str).str.strip().str.lower()
    for row, value in enumerate(frame["outcome"]):
        if value not in OUTCOMES:
            raise InputError(f"{name}, line {row + first_line}: outcome is {value!r}: {nearest(value, OUTCOMES)}.")
    same = [c for c in ("batch_size", "seed", *APART) if c in frame]
    twice = frame.index[frame.duplicated(same)] if "seed" in frame else []
    if len(twice):
        row = frame.loc[twice[0]]
        raise InputError(
            f"{name}, line {twice[0] + first_line}: batch_size {row['batch_size']:g}, seed {row['seed']} "
            "stands a second time: a run is one row."
        )
    for column, default in {"lower": math.nan, "seed": 0}.items():
        if column not in frame:
            frame[column] = default
    late = frame.index[(frame["lower"] >= frame["steps"]) & (frame["outcome"] == "reached")]
    if len(late):
        line = late[0] + first_line
        raise InputError(f"{name}, line {line}: lower is {frame['lower'][late[0]]:g}: it must be below steps.")
    return frame


# `lower` is 0 where the first evaluation was below the target already; β may be 0 too.
_FROM_ZERO = ("lower", "beta1", "beta2")


def _numbers(column: pd.Series, name: str, first_line: int) -> pd.Series:
    """A column as floats; only what every run needs may not be empty."""
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    zero = column.name in _FROM_ZERO
    allowed = (numbers >= 0 if zero else numbers > 0) & np.isfinite(numbers)
    wrong = column.index[~(allowed | (column.isna() & (column.name not in NEEDED)))]
    if len(wrong):
        value = "empty" if pd.isna(column[wrong[0]]) else f"{column[wrong[0]]}"
        must = "it must be a number, 0 or above" if zero else "it must be a number above 0"
        raise InputError(f"{name}, line {wrong[0] + first_line}: {column.name} is {value}: {must}.")
    return numbers
