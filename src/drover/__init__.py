"""Drover makes several Docker hosts behave as one Docker."""

__version__ = "0.1.0"
