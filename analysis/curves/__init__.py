"""A curve, and how files, studies and logs of evaluations become curves."""
