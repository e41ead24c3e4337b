"""Questions left open, each a study. A new one is one file and one line."""

from . import ablations, auto, few_teams, formation, imbalance, sparse, text
from .study import Study

STUDIES: dict[str, Study] = {
    "auto": auto.STUDY,
    "few_teams": few_teams.STUDY,
    "imbalance": imbalance.STUDY,
    "formation": formation.STUDY,
    "sparse": sparse.STUDY,
    "text": text.STUDY,
    "ablations": ablations.STUDY,
}
