"""Runnable experiments: `python -m experiments.train --help`."""
