"""Tables: the same cells as text, CSV, LaTeX (booktabs) and HTML."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from analysis.fitting.profile import Interval
from analysis.theory.closed_forms import power_of_two
from cbs.record import write_atomic

Value = float | int | str | None


@dataclass(frozen=True)
class Cell:
    """What a table shows, the value behind it, and its 95 % interval where it has one."""

    text: str
    value: Value = None
    interval: Interval | None = None


@dataclass
class Table:
    """name: a file's stem. title: a sentence. The first column is text; the others are aligned right."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        self.rows.append(list(cells))

    def text(self) -> str:
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for i, name in enumerate(self.columns):
            table.add_column(name, justify="right" if i else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*(cell.text for cell in row))
        console = Console(width=10_000, no_color=True)  # as wide as its cells: nothing is cut off
        with console.capture() as capture:
            console.print(table)
        return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())

    def csv(self) -> str:
        """One column per column, and two more, `… low` and `… high`, where cells have intervals."""
        has = [any(row[i].interval is not None for row in self.rows) for i in range(len(self.columns))]
        heads = [[name, f"{name} low", f"{name} high"] if has[i] else [name] for i, name in enumerate(self.columns)]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([head for group in heads for head in group])
        for row in self.rows:
            cells = [
                [cell.value, *(cell.interval or (None, None))] if has[i] else [cell.value] for i, cell in enumerate(row)
            ]
            writer.writerow(["" if v is None else v for group in cells for v in group])
        return out.getvalue()

    def latex(self) -> str:
        """A tabular with booktabs' rules; wants \\usepackage{booktabs}."""
        lines = [f"% {self.title}", f"\\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}", "\\toprule"]
        lines += [" & ".join(map(latex, self.columns)) + " \\\\", "\\midrule"]
        lines += [" & ".join(latex(cell.text) for cell in row) + " \\\\" for row in self.rows]
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def write_tables(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Each table as CSV and as LaTeX."""
    written = []
    for table in tables:
        for suffix, content in ((".csv", table.csv()), (".tex", table.latex())):
            path = folder / f"{table.name}{suffix}"
            write_atomic(path, content.encode())
            written.append(path)
    return written


_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "–": "--",
    "∞": r"$\infty$",
    "·": r"$\cdot$",
    "ε": r"$\varepsilon$",
    "²": "$^2$",
    "ᵖ": "$^p$",
    "σ": r"$\sigma$",
    "−": "$-$",
    "…": r"\dots",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": "$<$",
    ">": "$>$",
}


def latex(text: str) -> str:
    """Plain text as LaTeX: symbols of these tables in mathematics, the rest escaped."""
    whole = {
        "N∞": "$N_\\infty$",
        "b*": "$b^\\ast$",
        "b0": "$b_0$",
        "B_crit": r"$B_{\mathrm{crit}}$",
        "b_c": "$b_c$",
        "S_min": r"$S_{\min}$",
    }
    parts = re.split(r"(2[⁰¹²³⁴⁵⁶⁷⁸⁹]+|" + "|".join(map(re.escape, whole)) + ")", text)
    return "".join(whole[p] if p in whole else _power(p) or "".join(_LATEX.get(c, c) for c in p) for p in parts)


def _power(part: str) -> str:
    """A power of two in mathematics; empty for anything else."""
    found = re.fullmatch(r"2([⁰¹²³⁴⁵⁶⁷⁸⁹]+)", part)
    return f"$2^{{{found[1].translate(_DOWN)}}}$" if found else ""


def words(text: str | None) -> Cell:
    return Cell(text or "–", text)


def number(value: float | None, interval: Interval | None = None, power: bool = False) -> Cell:
    """A value with its interval; a bound where an end is open; its power of two as the slides name it."""
    text = with_interval(value, interval or (None, None))
    if power and value is not None and value >= 1:
        text += f" ({named(value)})"
    return Cell(text, value, interval)


_UP = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_DOWN = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def named(b: float) -> str:
    """The power of two nearest to a batch size, as the slides name it: 2³."""
    return f"2{str(power_of_two(b)).translate(_UP)}"


def share(value: float) -> Cell:
    return Cell("0" if value == 0 else "< 1 %" if value < 0.01 else f"{value:.0%}".replace("%", " %"), value)


def with_interval(value: float | None, interval: Interval) -> str:
    low, high = interval
    if low is None and high is None:
        return "–" if value is None else short(value)
    if low is None or high is None:
        return f"≤ {short(high)}" if high is not None else f"≥ {short(low or 0.0)}"
    return f"{short(low)}–{short(high)}" if value is None else f"{short(value)} ({short(low)}–{short(high)})"


def short(value: float) -> str:
    """A number in three figures, as people write it."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
