"""From records to an answer: curves, fits, closed-form estimates, figures, a report.

In three lines::

    from analysis import from_file
    (curve,) = from_file("curve.csv")
    print(curve.fit())
"""

from analysis.curves import Curve, from_file, from_frame
from analysis.difference import difference
from analysis.fit import Fit, fit_all
from analysis.studies import from_study
from analysis.targets import from_evaluations

__all__ = ["Curve", "Fit", "difference", "fit_all", "from_evaluations", "from_file", "from_frame", "from_study"]
