"""The teams that are true: those that the partition made."""

from permfl_jax.teams import consecutive
from permfl_jax.teams.formation import Formation

oracle = Formation(
    consecutive.assign,
    reveals="its true team, which nobody knows outside of experiments",
    needs_truth=True,
)
