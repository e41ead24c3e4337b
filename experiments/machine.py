"""What a program asks of the machine before JAX starts: cores, precision, a cache."""

import contextlib
import os
import pathlib
import sys
from typing import Any, NoReturn

import jax
from absl import flags

from permfl_jax import data, hosts
from permfl_jax.errors import InputError

# Of products only: models, gradients and means stay float32.
PRECISIONS = {
    "float32": "float32",
    "tf32": "tensorfloat32",
    "bfloat16": "bfloat16",
}

_MAPS = pathlib.Path("/proc/self/maps")  # on Linux
_MOST_MAPS = 30_000

flags.DEFINE_string(
    "precision",
    "float32",
    f"Of matrix products: {', '.join(PRECISIONS)}. Models stay float32.",
)


def use_all_cores() -> None:
    """One XLA device per CPU core, so that small devices keep every core busy.

    XLA spreads one large product over threads, but not many small ones. Without effect
    on GPUs and TPUs, or once JAX has started; an environment that sets
    JAX_NUM_CPU_DEVICES has precedence.
    """
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):  # JAX has started
            jax.config.update("jax_num_cpu_devices", _cores())


def _cores():
    if hasattr(os, "sched_getaffinity"):  # what this process may use; on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def on_host() -> contextlib.AbstractContextManager[Any]:
    """Within it, arrays are made in host memory: a dataset may not fit one chip.

    Without effect where JAX was told not to use the CPU (JAX_PLATFORMS).
    """
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def set_precision(name: str) -> None:
    """Of matrix products: a key of `PRECISIONS`.

    Raises:
      InputError: no such precision.
    """
    if name not in PRECISIONS:
        raise InputError(
            f"--precision={name} is unknown; choose from {', '.join(PRECISIONS)}."
        )
    jax.config.update("jax_default_matmul_precision", PRECISIONS[name])


def remember_compilations(data_dir: str | None) -> None:
    """Keeps compiled programs beside the prepared data, for the next start.

    Args:
      data_dir: `--data_dir`. `JAX_COMPILATION_CACHE_DIR` has precedence; a folder that
        cannot be written only means compiling again.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = data.SourceOptions(data_dir=data_dir).data_path() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def maps() -> int:
    """Pieces of memory that this process has mapped; 0 where nothing tells."""
    return _MAPS.read_bytes().count(b"\n") if _MAPS.exists() else 0


def forget_programs() -> None:
    """Lets go of all compiled programs where a cell might be one too many.

    Its programs are about a thousand pieces of mapped memory. Linux allows a process
    65,530, and XLA ends in a segmentation fault beyond them. Cells share small ones, so
    that letting go after each would be compiling them again.
    """
    if maps() > _MOST_MAPS:
        jax.clear_caches()


def join() -> None:
    """Joins the other processes of a pod or cluster, before JAX is used.

    TPU pods, Slurm, Open MPI and Kubernetes are recognised. Elsewhere the environment
    tells: JAX_COORDINATOR_ADDRESS=host:port of the first process, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID.

    Raises:
      InputError: nothing tells how many processes there are.
    """
    told = [os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID")]
    try:
        number, own = (None if text is None else int(text) for text in told)
        jax.distributed.initialize(num_processes=number, process_id=own)
    except (ValueError, IndexError, RuntimeError) as error:
        raise InputError(
            "--distributed found no pod or cluster; set JAX_COORDINATOR_ADDRESS "
            f"(host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID ({error})"
        ) from error


def agree(choice: bool) -> bool:
    """What the first process says, in all processes."""
    return bool(hosts.of_first(choice))


def leave(status: int) -> NoReturn:
    """Ends the program after a failure, also where other processes wait for this one.

    They are told by the loss of this one: at a regular end all would wait for all.
    """
    if jax.process_count() > 1:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status)
    sys.exit(status)
