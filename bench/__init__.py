"""Measuring Drover's budgets against what it replaces: `make bench`, `python -m bench NAME…`."""
