"""Broken and hostile input ends in success or one sentence; the short form.

`python tests/fuzz.py` is the long one.
"""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile

import pytest
from fuzzing import judging
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import members
from permfl_jax import hparams, plain_files, split
from permfl_jax.algorithms import permfl
from permfl_jax.data import csv_rows, idx, leaf
from permfl_jax.errors import InputError
from permfl_jax.partitions import ownership

ROOT = pathlib.Path(__file__).parents[1]
FEW = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize("surface", ["settings", "flag_files", "saved_states"])
def test_a_few_cases_of_each_surface_end_well(surface):
    done = subprocess.run(
        [sys.executable, "tests/fuzz.py", "--cases=12", f"--surfaces={surface}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 cases in" in done.stdout


def surface_of(perform):
    return judging.Surface(lambda folder: None, lambda rng, world: [], perform)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (InputError("One sentence."), "refused"),
        (InputError("Two\nlines."), "the sentence has several lines"),
        (InputError("No end"), "the sentence does not end"),
        (InputError("x" * 3000 + "."), "the sentence has 3001 characters"),
        (ValueError("Any other."), "ValueError in the test"),
        (MemoryError(), "MemoryError in the test"),
        (None, "passed"),
    ],
)
def test_the_judge_can_say_no(outcome, expected, tmp_path):
    def perform(steps, world, folder):
        if outcome is not None:
            raise outcome

    verdict = judging.judge(surface_of(perform), [], None, tmp_path)
    assert verdict.splitlines()[-1] == expected


def test_the_judge_sees_what_was_executed(tmp_path):
    def perform(steps, world, folder):
        (folder.parent / judging.CANARY).write_text("")

    verdict = judging.judge(surface_of(perform), [], None, tmp_path)
    assert verdict.endswith("something that was read was executed")


def test_the_smallest_case_that_fails_alike_is_found():
    assert judging.smaller([1, 2, 3, 4], lambda steps: {2, 4} <= set(steps)) == [2, 4]


def one_sentence(action):
    """Runs it; a refusal has to be one clear sentence."""
    try:
        found = action()
    except InputError as error:
        fault = judging.sentence_fault(str(error))
    else:
        return found
    assert fault is None
    return None


def in_file(content, action):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "file"
        path.write_bytes(content)
        return one_sentence(lambda: action(path))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["users", "num_samples", "user_data", "x", "y", "u"]), inner
        )
    ),
)


@FEW
@given(content=JSON)
def test_any_json_is_leafs_or_refused(content):
    in_file(json.dumps(content).encode(), lambda path: leaf.read(path, 4, 62))


@FEW
@given(content=st.binary(max_size=400))
def test_any_bytes_are_refused_by_every_reader(content):
    for read in (
        idx.read_idx_file,
        ownership.load,
        lambda path: leaf.read(path, 4, 62),
        lambda path: csv_rows.read(path.read_bytes(), ("a", "b"), "a file"),
    ):
        in_file(content, read)
    with pytest.raises(ValueError, match=r"damaged|lacks"):
        in_file(content, lambda path: plain_files.read_arrays(path, ["x"]))


@FEW
@given(texts=st.lists(st.text(max_size=20), max_size=3))
def test_any_texts_are_numbers_or_refused(texts):
    one_sentence(lambda: hparams.parse(permfl.HParams, texts)) if not any(
        "\n" in text or "\r" in text for text in texts
    ) else None
    for flags in (texts, [f"device_lr={text}" for text in texts]):
        with contextlib.suppress(InputError):
            members.members(permfl.HParams, [], ["0"], flags)


@FEW
@given(a=st.floats(), b=st.floats(), count=st.integers(0, 50))
def test_any_fractions_cut_all_rows_or_are_refused(a, b, count):
    import numpy as np

    rows = [np.arange(count)]
    rng = np.random.default_rng(0)
    found = one_sentence(lambda: split.split(rng, rows, a, b))
    if found is not None:
        assert sorted(np.concatenate([part[0] for part in found])) == list(range(count))
