"""Rules of team formation. A new one is one file and one line."""

from permfl_jax.teams import (
    adversarial,
    average_case,
    consecutive,
    label_kmeans,
    label_linkage,
    loss_choice,
    model_distance,
    oracle,
    random,
    update_cosine,
    worst_case,
)

FORMATIONS = {
    "adversarial": adversarial.adversarial,
    "average_case": average_case.average_case,
    "consecutive": consecutive.consecutive,
    "label_kmeans": label_kmeans.label_kmeans,
    "label_linkage": label_linkage.label_linkage,
    "loss_choice": loss_choice.loss_choice,
    "model_distance": model_distance.model_distance,
    "oracle": oracle.oracle,
    "random": random.random,
    "update_cosine": update_cosine.update_cosine,
    "worst_case": worst_case.worst_case,
}
