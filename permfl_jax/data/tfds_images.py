"""Picture datasets through tensorflow-datasets (TFDS), kept as one file of arrays.

What TFDS prepared or extracted once, it trusts by name for ever, and MNIST and
Fashion-MNIST share their file names. So it works in a private folder that is thrown
away, and what stays in `--data_dir` is one file of arrays (`array_cache.py`).
"""

import pathlib

from permfl_jax.data import array_cache, examples, image_source, tfds_build
from permfl_jax.data.image_source import Arrays, ImageSource


def load(source: ImageSource, options: examples.SourceOptions) -> examples.Examples:
    """The official training split, then the official test split, in original order.

    Raises:
      InputError: the dataset is neither prepared, nor there as raw files, nor to be
        downloaded; or a file is not what it should be; or a folder cannot be written.
    """

    def problem(arrays):
        return image_source.problem((arrays["x"], arrays["y"]), source)

    def prepare(scratch):
        x, y = _build(scratch, source, options)
        return {"x": x, "y": y}

    cache = options.data_path() / f"{source.name}.npz"
    arrays = array_cache.load(cache, ("x", "y"), problem, prepare)
    return examples.Examples(
        **arrays, num_classes=source.num_classes, scale=2 / 255, offset=-1.0
    )


def _build(
    scratch: pathlib.Path, source: ImageSource, options: examples.SourceOptions
) -> Arrays:
    """The arrays from the archive that TFDS does not know, or else by TFDS."""
    manual = options.manual_path(source.name)
    if source.archive and manual is not None and (manual / source.archive).exists():
        files = {source.archive: manual / source.archive}
        splits = [source.read_split(files, split) for split in ("train", "test")]
        return image_source.join(splits, source)
    return tfds_build.build(scratch, source, options)
