"""Which run to train next, and whether b* is decided."""
