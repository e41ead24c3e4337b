"""All kinds of input, by name, and how many of the cases each gets."""

import importlib

from fuzzing.judging import Surface

# Parts of the whole.
SHARES = {
    "settings": 45,
    "flag_files": 5,
    "run_folders": 5,
    "saved_states": 5,
    "data_files": 35,
    "samples": 5,
}


def get(name: str) -> Surface:
    """The surface of the module called `name` in this folder."""
    module = importlib.import_module(f"fuzzing.{name}")
    own = {"gigabytes": "GIGABYTES", "printed": "PRINTED"}
    more = {
        field: getattr(module, constant)
        for field, constant in own.items()
        if hasattr(module, constant)
    }
    return Surface(module.prepare, module.draw, module.perform, **more)
