"""How much of a run's time goes into its checkpoints.

python tests/save_cost.py --dataset=digits --workdir=runs/save_cost

Counts what the training thread waits for: copying, handing over, sealing. Orbax's
threads write meanwhile; `--checkpoint_every=1` makes their share large enough to see in
the processor time.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from absl import app, flags

from experiments import train
from permfl_jax.checkpoints import Checkpoints

_waited = {"seconds": 0.0, "saves": 0}


def _timed(name):
    method = getattr(Checkpoints, name)

    def call(self, *given):
        begun = time.monotonic()
        try:
            return method(self, *given)
        finally:
            _waited["seconds"] += time.monotonic() - begun
            _waited["saves"] += name == "save"

    setattr(Checkpoints, name, call)


def main(argv):
    """Trains as the flags say, and prints a line more."""
    for name in ("save", "close"):  # both seal what is under way
        _timed(name)
    begun, processor = time.monotonic(), time.process_time()
    train.main(argv)
    whole = time.monotonic() - begun
    waited = _waited["seconds"]
    print(
        f"{_waited['saves']} saves: {waited:.2f} s of {whole:.1f} s waited, "
        f"{waited / whole:.2%}; "
        f"{time.process_time() - processor:.1f} s of processor time"
    )


if __name__ == "__main__":
    flags.adopt_module_key_flags(train)
    app.run(main)
