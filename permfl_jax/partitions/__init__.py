"""Partition schemes: who owns which examples. A new one is one file and one line."""

from permfl_jax.partitions import (
    classes,
    dirichlet,
    domains,
    natural,
    paper,
    quantity,
    two_level_dirichlet,
)

PARTITIONS = {
    "classes": classes.classes,
    "dirichlet": dirichlet.dirichlet,
    "domains": domains.domains,
    "natural": natural.natural,
    "paper": paper.paper,
    "quantity": quantity.quantity,
    "two_level_dirichlet": two_level_dirichlet.two_level_dirichlet,
}

# The schemes that hand out classes by `PartitionOptions.class_windows`. Team
# formations that choose the classes of each device work only with these.
FOLLOW_WINDOWS = frozenset({"paper"})

# The schemes whose teams are consecutive devices with something in common. A formation
# that draws other teams destroys what they have in common.
MAKE_TEAMS = frozenset({"domains", "two_level_dirichlet"})
