"""Partition schemes: who owns which examples. A new one is one file and one line."""

from permfl_jax.partitions import natural, paper

PARTITIONS = {
    "natural": natural.natural,
    "paper": paper.paper,
}

# The schemes that hand out classes by `PartitionOptions.class_windows`. Team
# formations that choose the classes of each device work only with these.
FOLLOW_WINDOWS = frozenset({"paper"})
