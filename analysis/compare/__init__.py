"""Arms of a study against each other."""
