"""Questions left open, each a study. A new one is one file and one line."""

from . import ablations, few_teams, imbalance
from .study import Study

STUDIES: dict[str, Study] = {
    "few_teams": few_teams.STUDY,
    "imbalance": imbalance.STUDY,
    "ablations": ablations.STUDY,
}
