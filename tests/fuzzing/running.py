"""Cases in processes of their own, which may crash, hang, or want too much memory.

The parent imports everything and never starts JAX; a worker is a fork of it, and runs
cases one after another. Where one ends or hangs, another goes on with the next case.
"""

import json
import os
import pathlib
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

from fuzzing import judging
from fuzzing.judging import Steps, Surface

HANG = 10.0  # seconds
_PREPARING = 180.0
_PER_WORKER = 400  # cases; compiled programs pile up in a process


class Failure(NamedTuple):
    """A case that failed.

    Attributes:
      surface: its name.
      number: of the case.
      steps: as few as fail alike.
      reason: several lines; the last one tells failures apart.
    """

    surface: str
    number: int
    steps: Steps
    reason: str


class Tally(NamedTuple):
    """What came of a surface's cases.

    Attributes:
      passed: how many did what they were asked for.
      refused: how many were told one sentence.
      failures: the others.
      slowest: seconds of the slowest case.
    """

    passed: int
    refused: int
    failures: list[Failure]
    slowest: float


def run(name: str, surface: Surface, seed: int, cases: int) -> Tally:
    """Runs the cases of one surface, one worker after another.

    Args:
      name: of the surface.
      surface: what to run.
      seed: of the random numbers.
      cases: how many.
    """
    passed = refused = 0
    failures, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        where = pathlib.Path(folder)
        number, barren = 0, 0
        while number < cases:
            end, begun = min(cases, number + _PER_WORKER), number
            for ran, steps, verdict, seconds in _worker(
                name, surface, where, (seed, number, end)
            ):
                slowest = max(slowest, seconds)
                passed += verdict == "passed"
                refused += verdict == "refused"
                if verdict not in ("passed", "refused"):
                    failures.append(Failure(name, ran, steps, verdict))
                number = ran + 1
            print(f"{name}: {number} of {cases}", file=sys.stderr, flush=True)
            barren = barren + 1 if number == begun else 0
            if barren > 1:
                reason = "FAILED\nthe surface could not be prepared"
                failures.append(Failure(name, number, [], reason))
                break
    return Tally(passed, refused, failures, slowest)


def _worker(name, surface, where, numbers) -> Iterator[tuple[int, Steps, str, float]]:
    """Yields number, steps, verdict and seconds of each case, until the worker ends."""
    reading, writing = os.pipe()
    worker = os.fork()
    if not worker:
        os.close(reading)
        _work(name, surface, where, numbers, writing)
    os.close(writing)
    lines = _Lines(reading)
    number, steps, begun, allowed = numbers[1] - 1, None, time.monotonic(), _PREPARING
    while True:
        line = lines.next(begun + allowed)
        seconds = time.monotonic() - begun
        if line is None:
            os.kill(worker, signal.SIGKILL)
        if not line:
            break
        message, begun, allowed = json.loads(line), time.monotonic(), HANG
        if "verdict" in message:
            yield number, message["steps"], message["verdict"], seconds
            steps = None
        else:
            number, steps = message.get("number", number), message["steps"]
    os.close(reading)
    _, status = os.waitpid(worker, 0)
    if steps is not None:
        ended = f"the process ended with status {os.waitstatus_to_exitcode(status)}"
        how = f"more than {HANG:.0f} seconds" if line is None else ended
        yield number, steps, f"FAILED\n{how}", seconds


class _Lines:
    """Lines from a pipe, with a deadline for each."""

    def __init__(self, pipe):
        self._pipe, self._text = pipe, b""

    def next(self, deadline):
        """The next line; nothing at the end, `None` at the deadline."""
        while b"\n" not in self._text:
            wait = max(0.0, deadline - time.monotonic())
            if not select.select([self._pipe], [], [], wait)[0]:
                return None
            part = os.read(self._pipe, 2**16)
            if not part:
                return b""
            self._text += part
        line, _, self._text = self._text.partition(b"\n")
        return line


def _work(name, surface, where, numbers, writing):
    """The life of a worker; does not return."""
    seed, first, end = numbers
    code = 1
    try:
        _quiet(where)
        prepared = where / f"prepared_{first}"
        prepared.mkdir(exist_ok=True)
        world = surface.prepare(prepared)
        limit_memory(surface.gigabytes)
        with open(writing, "w", encoding="utf-8") as pipe:
            for number in range(first, end):
                steps = surface.draw(judging.chance(name, seed, number), world)
                _tell(pipe, number=number, steps=steps)
                verdict = judging.judge(surface, steps, world, where)
                if verdict not in ("passed", "refused"):
                    steps = _smaller(surface, steps, world, where, verdict, pipe)
                _tell(pipe, verdict=verdict, steps=steps)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _smaller(surface, steps, world, where, verdict, pipe):
    def fails(fewer):
        _tell(pipe, steps=fewer)
        again = judging.judge(surface, fewer, world, where)
        return again.splitlines()[-1] == verdict.splitlines()[-1]

    return judging.smaller(steps, fails)


def _tell(pipe, **message):
    pipe.write(json.dumps(message) + "\n")
    pipe.flush()


def _quiet(where):
    """What the programs print is not read, and nobody types."""
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(where / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(where)


def limit_memory(gigabytes: float) -> None:
    """Lets this process take so much more address space than it has now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
