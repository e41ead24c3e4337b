"""What `tests/fuzz.py` runs: one file for each kind of input, and what they share."""
