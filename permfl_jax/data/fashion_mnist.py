"""Fashion-MNIST: 70,000 grey pictures of clothes, 28x28, 10 classes.

References:
  Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
  Machine Learning Algorithms", arXiv:1708.07747.
"""

from permfl_jax.data import examples, tfds_images
from permfl_jax.data.idx import read_idx
from permfl_jax.data.image_source import ImageSource

SOURCE = ImageSource(
    name="fashion_mnist",
    image_shape=(28, 28, 1),
    num_classes=10,
    num_train=60_000,
    num_test=10_000,
    train_pixel_sum=3_431_114_169,
    test_pixel_sum=573_469_082,
    read_split=read_idx,
)


def fashion_mnist(options: examples.SourceOptions) -> examples.Examples:
    """The 60,000 training pictures, then the 10,000 test pictures, each in order."""
    return tfds_images.load(SOURCE, options)
