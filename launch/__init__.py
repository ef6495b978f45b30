"""Many trials: where and when they run."""
