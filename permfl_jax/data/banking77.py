"""BANKING77: 13,083 questions of a bank's customers, 77 intents.

One domain only, all sentences in scope. Features are those of `text.py`. Not in TFDS:
`train.csv`, `test.csv` and `categories.json`, as published, go into
`--manual_dir`/banking77.

References:
  Casanueva et al., "Efficient Intent Detection with Dual Sentence Encoders", NLP4ConvAI
  2020, arXiv:2003.04807. Its files are under CC BY 4.0.
"""

import json
import pathlib

from permfl_jax import plain_files
from permfl_jax.data import csv_rows, examples, text
from permfl_jax.errors import InputError

NUM_INTENTS = 77
_MOST_BYTES = 2**26  # the largest has 840,000
FILES = ("train.csv", "test.csv", "categories.json")


def banking77(options: examples.SourceOptions) -> examples.Examples:
    """The splits for training and test, each in order.

    Raises:
      InputError: a file is missing or not what it should be.
    """
    folder = options.manual_path("banking77")
    if folder is None or not all((folder / name).is_file() for name in FILES):
        raise InputError(
            f"dataset banking77 is not in --manual_dir={options.manual_dir}: give "
            f"--manual_dir=DIR with {', '.join(FILES)} in DIR/banking77."
        )
    number = {name: index for index, name in enumerate(_categories(folder / FILES[2]))}
    sentences, labels = [], []
    for path in (folder / name for name in FILES[:2]):
        for row in csv_rows.read(_content(path), ("text", "category"), str(path)):
            if row["category"] not in number:
                raise InputError(
                    f"{path} has the category {row['category']!r:.60}, which "
                    f"{FILES[2]} does not name."
                )
            sentences.append(row["text"])
            labels.append(number[row["category"]])
    return text.examples(
        sentences,
        labels,
        num_classes=NUM_INTENTS,
        num_features=options.text_features,
    )


def _categories(path: pathlib.Path) -> list[str]:
    """The intents; the place of each is its class."""
    try:
        names = json.loads(_content(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}.") from error
    strings = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not strings or len(names) != NUM_INTENTS or len(set(names)) != NUM_INTENTS:
        raise InputError(f"{path} must be a list of {NUM_INTENTS} different names.")
    return names


def _content(path):
    try:
        return plain_files.read_bytes(path, _MOST_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
