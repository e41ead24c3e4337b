"""Programs of experiments/ without the seconds that importing JAX takes.

For each program and environment one process imports it and never starts JAX; a call is
a fork of it, with its own arguments, folder and environment. That `python -m` works is
what other tests say.
"""

import atexit
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]


def run(module, *flags, cwd=ROOT, timeout=300, **environment):
    """As `subprocess.run([python, "-m", module, *flags])` with text captured.

    Args:
      module: with a function `console`, `experiments.train`.
      *flags: its arguments.
      cwd: its folder.
      timeout: seconds.
      **environment: over that of this process; JAX reads some of it when imported.
    """
    settings = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | environment
    with tempfile.TemporaryDirectory() as folder:
        order = {
            "argv": [module, *flags],
            "cwd": str(cwd),
            "environment": dict(os.environ) | settings,
            "streams": [f"{folder}/out", f"{folder}/err"],
            "timeout": timeout,
        }
        server = _server(module, tuple(sorted(settings.items())))
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, f"the process that had imported {module} ended"
        out, err = (pathlib.Path(p).read_text() for p in order["streams"])
    code = json.loads(answer)
    if code is None:
        raise subprocess.TimeoutExpired(order["argv"], timeout, out, err)
    return subprocess.CompletedProcess(order["argv"], code, out, err)


@functools.cache
def _server(module, settings):
    server = subprocess.Popen(
        [sys.executable, __file__, module],
        cwd=ROOT,
        env=os.environ | dict(settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(_stop, server)
    return server


def _stop(server):
    server.stdin.close()  # which ends it
    server.stdout.close()
    server.wait(timeout=60)


def _serve(module):
    __import__(module)
    console = sys.modules[module].console
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            _call(console, order)
        print(json.dumps(_wait(child, order["timeout"])), flush=True)


def _wait(child, timeout):
    """The exit status; `None` if it took too long."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


def _call(console, order):
    """The life of a fork; does not return."""
    try:
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["environment"])
    except BaseException:
        os._exit(1)
    become(console, order["argv"], order["streams"], atexit._run_exitfuncs)


def become(console, argv, streams, finish=lambda: None):
    """What a fork is from here on: the program; does not return.

    Args:
      console: of the program.
      argv: its name and arguments.
      streams: files that its output and its errors are added to.
      finish: called at its end; functions of `atexit` may be those of whoever forked.
    """
    code = 1
    try:
        added = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(streams, 1):
            os.dup2(os.open(path, added), number)
        sys.argv = argv
        try:
            console()
            code = 0
        except SystemExit as stop:
            code = _status(stop.code)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finish()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _status(code):
    """As the interpreter does."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


if __name__ == "__main__":
    _serve(sys.argv[1])
