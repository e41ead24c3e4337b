"""The flag --quick, which some programs share."""

from absl import flags

flags.DEFINE_bool("quick", False, "Fewer, smaller and shorter runs of each kind.")
