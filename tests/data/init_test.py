"""The registry, and what importing it costs."""

import pathlib
import subprocess
import sys

import pytest

import permfl_jax
from permfl_jax import data, errors


def test_every_key_is_the_name_of_its_function():
    assert all(name == function.__name__ for name, function in data.DATASETS.items())


def test_every_name_in_all_exists():
    assert all(hasattr(data, name) for name in data.__all__)


def test_unknown_name_lists_the_allowed_ones():
    with pytest.raises(errors.InputError) as caught:
        data.load("mnits", data.SourceOptions())
    assert str(caught.value) == (
        "--dataset must be one of banking77, cifar100, clinc_oos, digits, "
        "emnist_digits, fashion_mnist, femnist, mnist, shakespeare, synthetic, got "
        "'mnits'."
    )


def test_examples_say_of_what_they_are_when_it_is_known():
    """Group and owner are the last fields, and may be left out."""
    assert data.Examples._fields[-2:] == ("device", "group")
    assert data.Examples._field_defaults == {"device": None, "group": None}


def test_import_does_not_import_tfds():
    """It costs a second, and digits and synthetic never need it."""
    heavy = ["tensorflow_datasets", "tensorflow", "requests", "PIL", "array_record"]
    code = (
        "import sys; from permfl_jax import data; "
        "data.load('digits', data.SourceOptions()); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    root = pathlib.Path(next(iter(permfl_jax.__path__))).parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        cwd=root,
        text=True,
    )
    assert done.stdout.strip() == "[]", done.stdout
