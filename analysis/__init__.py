"""From records to an answer: curves, fits, closed-form estimates, figures, a report.

In three lines::

    from analysis import describe, fit, from_file
    (curve,) = from_file("curve.csv")
    print(describe(fit(curve)))
"""

from analysis.answer.sentences import describe
from analysis.curves.curve import Curve
from analysis.curves.files import from_file, from_frame
from analysis.curves.studies import from_study
from analysis.curves.targets import from_evaluations
from analysis.fitting.difference import difference
from analysis.fitting.fit import Fit, fit, fit_all

__all__ = [
    "Curve",
    "Fit",
    "describe",
    "difference",
    "fit",
    "fit_all",
    "from_evaluations",
    "from_file",
    "from_frame",
    "from_study",
]
