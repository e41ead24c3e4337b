"""MNIST: 70,000 grey pictures of handwritten digits, 28x28, 10 classes.

References:
  LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
"""

from permfl_jax.data import examples, tfds_images
from permfl_jax.data.idx import read_idx
from permfl_jax.data.image_source import ImageSource

SOURCE = ImageSource(
    name="mnist",
    image_shape=(28, 28, 1),
    num_classes=10,
    num_train=60_000,
    num_test=10_000,
    train_pixel_sum=1_567_298_545,
    test_pixel_sum=264_923_200,
    read_split=read_idx,
)


def mnist(options: examples.SourceOptions) -> examples.Examples:
    """The 60,000 training pictures, then the 10,000 test pictures, each in order."""
    return tfds_images.load(SOURCE, options)
