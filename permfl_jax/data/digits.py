"""8x8 pictures of digits that travel with the package: no network, no waiting.

References:
  Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
  Repository, 1998 (the test part, as scikit-learn ships it); see DIGITS_LICENSE.md.
"""

from importlib import resources

import numpy as np

from permfl_jax.data import examples


def digits(options: examples.SourceOptions) -> examples.Examples:
    """1,797 pictures `[S, 8, 8, 1]` with values 0 to 16, in 10 classes."""
    del options
    file = resources.files("permfl_jax.data") / "digits.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        x, y = arrays["x"], arrays["y"]
    return examples.Examples(
        x=x[..., np.newaxis],
        y=y.astype(np.int32),
        num_classes=10,
        scale=1 / 8,
        offset=-1.0,
    )
