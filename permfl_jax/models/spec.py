"""What a model factory is told."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The task a model must fit.

    Attributes:
      dataset: name, for models that differ by dataset as the paper's CNNs do.
      sample_shape: shape of one `x`.
      num_classes: C.
      hidden: widths of the hidden layers of `dnn`; empty means the paper's widths.
    """

    dataset: str
    sample_shape: tuple[int, ...]
    num_classes: int
    hidden: tuple[int, ...] = ()
