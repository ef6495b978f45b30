"""From records to an answer: curves, fits, closed-form estimates, figures."""
