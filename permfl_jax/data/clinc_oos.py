"""CLINC150: 22,500 short requests to an assistant, 150 intents in 10 domains.

Only the sentences in scope; the 1,200 that ask for none of the intents are left out.
An example's group is its domain (banking, travel, ...), 15 intents each, so that teams
can be domains. Features are those of `text.py`.

References:
  Larson et al., "An Evaluation Dataset for Intent Classification and Out-of-Scope
  Prediction", EMNLP 2019, arXiv:1909.02027. Its files are under CC BY 3.0.
"""

import io
import zipfile

from permfl_jax.data import csv_rows, examples, text
from permfl_jax.data.text_file import TextFile

NUM_INTENTS = 150
# As TFDS knows it: address, size and checksum.
FILE = TextFile(
    dataset="clinc_oos",
    folder="clinc_oos",
    filename="clinc_oos.zip",
    url="https://github.com/jereliu/datasets/raw/master/clinc_oos.zip",
    size=262_154,
    sha256="e4e11b767b435a840ee9216eacec93cb69f2d6707252b416ebd0d4843cd3d9ee",
)
_COLUMNS = ("text", "intent", "domain", "intent_name", "domain_name")


def clinc_oos(options: examples.SourceOptions) -> examples.Examples:
    """The splits for training, validation and test, each in order.

    Raises:
      InputError: the file can not be had.
    """
    rows = []
    with zipfile.ZipFile(io.BytesIO(FILE.read(options))) as archive:
        for member in ("train.csv", "val.csv", "test.csv"):
            rows += csv_rows.read(archive.read(member), _COLUMNS, member)
    return text.examples(
        [row["text"] for row in rows],
        [int(row["intent"]) for row in rows],
        num_classes=NUM_INTENTS,
        num_features=options.text_features,
        group=[int(row["domain"]) for row in rows],
    )
