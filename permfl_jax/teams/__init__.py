"""Rules of team formation. A new one is one file and one line."""

from permfl_jax.teams import average_case, consecutive, random, worst_case

FORMATIONS = {
    "average_case": average_case.average_case,
    "consecutive": consecutive.consecutive,
    "random": random.random,
    "worst_case": worst_case.worst_case,
}
