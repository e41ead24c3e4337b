"""Tiny Shakespeare: the next character of a speaker's lines, given the 80 before it.

LEAF's task, on the plays that Karpathy put into one file: owners are speakers, by the
name that the file gives them. A speaker's text is all of his lines in order, joined by
newlines; those with fewer than 1,000 characters are left out, and 141 remain. A window
begins every 4 characters (LEAF: every one), which makes 20 MB instead of 80.

Windows of a speaker overlap: the character that one has to guess stands in the windows
after it. A random split into training and test samples is therefore kinder than a split
in time; it is the same for every method.

References:
  Caldas et al., "LEAF: A Benchmark for Federated Settings", arXiv:1812.01097.
  Karpathy, "The Unreasonable Effectiveness of Recurrent Neural Networks", 2015.
"""

import re

import numpy as np

from permfl_jax.data import examples
from permfl_jax.data.text_file import TextFile

WINDOW = 80
STRIDE = 4
MIN_CHARACTERS = 1000
# As TFDS knows it: address, size and checksum.
FILE = TextFile(
    dataset="shakespeare",
    folder="tiny_shakespeare",
    filename="input.txt",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
    "tinyshakespeare/input.txt",
    size=1_115_394,
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


def shakespeare(options: examples.SourceOptions) -> examples.Examples:
    """`x` `[S, 80]` and `y` are codes: places in the sorted characters of the file.

    Speakers are numbered in the order of their first words.

    Raises:
      InputError: the file can not be had.
    """
    text = FILE.read(options).decode("ascii")
    characters = sorted(set(text))
    code = np.zeros(128, np.uint8)
    code[[ord(character) for character in characters]] = range(len(characters))
    xs, ys = [], []
    for spoken in speakers(text).values():
        if len(spoken) >= MIN_CHARACTERS:
            codes = code[np.frombuffer(spoken.encode("ascii"), np.uint8)]
            x, y = windows(codes)
            xs.append(x)
            ys.append(y)
    owner = np.arange(len(xs), dtype=np.int32)
    return examples.Examples(
        x=np.concatenate(xs),
        y=np.concatenate(ys).astype(np.int32),
        num_classes=len(characters),
        scale=1.0,
        offset=0.0,
        device=np.repeat(owner, [len(y) for y in ys]),
    )


def speakers(text: str) -> dict[str, str]:
    """`{speaker: all of his lines}`.

    A speech is a line with the speaker's name and a colon, then lines; empty lines end
    it. Some have a name alone, and count for nothing.
    """
    lines: dict[str, list[str]] = {}
    for speech in re.split(r"\n{2,}", text.strip("\n")):
        name, _, spoken = speech.partition(":\n")
        if spoken:
            lines.setdefault(name, []).append(spoken)
    return {name: "\n".join(spoken) for name, spoken in lines.items()}


def windows(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every `STRIDE`-th run of `WINDOW` codes, and the code after each."""
    runs = np.lib.stride_tricks.sliding_window_view(codes, WINDOW + 1)[::STRIDE]
    return runs[:, :WINDOW], runs[:, WINDOW]
