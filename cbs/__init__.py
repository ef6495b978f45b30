"""One trial: a composed config in, a record out."""

__version__ = "0.1.0"
