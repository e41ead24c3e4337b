"""Examples in docstrings print what they say."""

import doctest
import importlib
import pathlib

import pytest

import permfl_jax

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# Central functions whose example must not get lost.
WITH_EXAMPLE = {
    "permfl_jax.federation": ("from_arrays", "team_sizes", "class_counts"),
    "permfl_jax.schedule": ("Schedule",),
    "permfl_jax.participation": ("Sampler",),
    "permfl_jax.hparams": ("parse",),
    "permfl_jax.tree": ("mean", "put", "segment_mean", "lerp"),
    "permfl_jax.rules": ("proximal",),
    "permfl_jax.theory": ("series", "contraction", "progress", "steps_to"),
    "permfl_jax.traffic": ("three_tier",),
    "permfl_jax.task": ("classification",),
    "permfl_jax.assemble": ("build",),
    "permfl_jax.scores": ("majority_accuracy",),
    "permfl_jax.algorithms.permfl": ("permfl", "team_step"),
}


def with_examples():
    """Dotted names of the modules that show something."""
    (root,) = map(pathlib.Path, permfl_jax.__path__)
    for path in sorted(root.rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            yield ".".join(
                ("permfl_jax", *path.relative_to(root).with_suffix("").parts)
            )


@pytest.mark.parametrize("name", sorted({*with_examples(), *WITH_EXAMPLE}))
def test_examples_print_what_they_say(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=OPTIONS)
    assert result.failed == 0
    found = {
        test.name
        for test in doctest.DocTestFinder(exclude_empty=True).find(module)
        if test.examples
    }
    assert {f"{name}.{function}" for function in WITH_EXAMPLE.get(name, ())} <= found
