"""The messages between chips, counted in the compiled program of a round.

One per team round along the devices of a row, of the team models; one per global round
along the rows, of the global model; never a device's model or its samples.
"""

import math
import re
from typing import NamedTuple

import jax
import numpy as np
import pytest
from federations import classes_federation, mclr_loss, mclr_params, mesh_of

from permfl_jax import placement, runner
from permfl_jax.algorithms import ALGORITHMS
from permfl_jax.algorithms.demlearn import LOWEST as GROUPS
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

DEVICES, TEAMS, DIM, CLASSES = 8, 4, 50, 7
MODEL = 4 * (DIM + 1) * CLASSES  # bytes
KINDS = (
    "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    "|collective-broadcast|ragged-all-to-all"
)
BYTES = {"pred": 1, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "f64": 8}


class Message(NamedTuple):
    kind: str
    size: int  # bytes of what arrives
    groups: tuple  # chips that send to each other
    depth: int  # loops around it: 0 outside, 1 per global round, 2 per team round
    text: str


def messages(text):
    """All collectives of a compiled program."""
    computations, calls, entry = {}, {}, None
    for line in text.splitlines():
        if opening := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = opening[2]
            entry = name if opening[1] else entry
            computations[name], calls[name] = [], []
            continue
        if line.startswith("}") or not computations:
            continue
        loop = " while(" in line
        for role, callee in re.findall(
            r"(body|condition|calls|to_apply|\w+_computations?)=\{?%?([\w.-]+)", line
        ):
            calls[name].append((callee, loop and role in ("body", "condition")))
        if re.search(rf" ({KINDS})(-start)?\(", line):
            computations[name].append(line)
    found = []

    def visit(name, depth):
        found.extend(parse(line, depth) for line in computations[name])
        for callee, loop in calls[name]:
            visit(callee, depth + loop)

    visit(entry, 0)
    return found


def parse(line, depth):
    head, kind = re.search(rf"= (.*?) ({KINDS})(?:-start)?\(", line).groups()
    shapes = re.findall(r"(\w+)\[([\d,]*)\]", re.sub(r"\{[^}]*\}", "", head))
    size = sum(
        BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n)
        for dtype, dims in shapes
    )
    return Message(kind, size, replica_groups(line), depth, line.strip())


def replica_groups(line):
    """In any of XLA's three spellings."""
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", line):
        groups = re.findall(r"\{([\d,]+)\}", listed[1])
        return tuple(tuple(int(i) for i in group.split(",")) for group in groups)
    iota = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line
    )
    if iota:
        shape, dims, order = (
            [int(i) for i in part.split(",")] if part else None
            for part in iota.groups()
        )
        grid = np.arange(math.prod(dims)).reshape(dims)
        return tuples(grid.transpose(order or range(len(dims))).reshape(shape))
    named = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)
    axes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
    over = re.findall(r"'(\w+)'", named[2])
    grid = np.arange(math.prod(map(int, axes.values())))
    grid = grid.reshape([int(n) for n in axes.values()])
    names = list(axes)
    last = [names.index(name) for name in over]
    rest = [i for i in range(len(names)) if i not in last]
    size = math.prod(grid.shape[i] for i in last)
    return tuples(grid.transpose(rest + last).reshape(-1, size))


def tuples(grid):
    return tuple(tuple(int(i) for i in row) for row in grid)


ROWS, COLUMNS, ALL = ((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 1, 2, 3),)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, use", ROWS),
        ("replica_groups=[2,2]<=[4], use", ROWS),
        ("replica_groups=[2,2]<=[2,2]T(1,0), use", COLUMNS),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, use", COLUMNS),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, use", ROWS),
        ("replica_groups=mesh['a'=4,'b'=1] {'a'}, use", ALL),
    ],
)
def test_groups_are_read_in_every_spelling(text, groups):
    assert replica_groups(text) == groups


def round_messages(shape, name="permfl", teams=None, devices=None, **schedule):
    order = np.repeat(np.arange(TEAMS), DEVICES // TEAMS).tolist()
    federation, _ = classes_federation(
        0, [40] * DEVICES, order, DIM, CLASSES, np.float32
    )
    federation = placement.place(federation, mesh_of(*shape))
    algorithm = ALGORITHMS[name].factory(
        mclr_loss,
        Schedule(team_steps=3, device_steps=2, batch_size=4, **schedule),
        Sampler.of(federation, teams, devices),
    )
    start = runner.start(
        algorithm, mclr_params(1, DIM, CLASSES, np.float32), federation
    )
    hparams = ALGORITHMS[name].hparams().traced()
    # Several rounds, so that a global round is a loop of the program.
    lowered = runner.advance.lower(
        algorithm, 3, jax.random.key(0), hparams, start, federation
    )
    return messages(lowered.compile().as_text())


def per_team_round(found):
    return [message for message in found if message.depth >= 2]


def per_global_round(found, at_least=0):
    return [m for m in found if m.depth == 1 and m.size >= at_least]


@pytest.mark.parametrize("weights", ["uniform", "samples"])
@pytest.mark.parametrize("keep", [True, False])
def test_teams_send_along_rows_and_the_server_along_columns(keep, weights):
    found = round_messages((2, 2), keep_personal=keep, weights=weights)
    assert {message.kind for message in found} == {"all-reduce"}
    (team,) = per_team_round(found)
    assert team.groups == ROWS
    assert team.size == TEAMS // 2 * MODEL  # the models of the row's own teams
    (server,) = per_global_round(found, MODEL)
    assert server.groups == COLUMNS
    assert server.size - MODEL <= 16  # a loss may travel with it
    # What else there is, is small: losses, sums of weights; and of both tiers how many
    # models are not finite, and the first.
    rest = [m for m in found if m not in (team, server)]
    assert sum(m.size for m in rest) <= 64 + 2 * 8, rest


def test_with_a_team_to_a_row_nothing_is_sent_in_a_team_round():
    found = round_messages((4, 1))
    assert per_team_round(found) == []
    (server,) = per_global_round(found, MODEL)
    assert server.groups == ALL


def test_with_one_row_all_chips_share_every_team():
    found = round_messages((1, 4))
    (team,) = per_team_round(found)
    assert team.groups == ALL
    assert team.size == TEAMS * MODEL
    assert per_global_round(found, MODEL) == []  # every chip has all team models


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("teams", "devices"), [(None, 1), (2, 1), (2, None)])
def test_drawing_devices_sends_lots_but_no_model_of_a_device(teams, devices, keep):
    found = round_messages((2, 2), teams=teams, devices=devices, keep_personal=keep)
    lots = [m for m in found if m.kind != "all-reduce"]
    assert all(m.kind == "all-gather" and m.size <= 8 * DEVICES for m in lots), lots
    (team,) = [m for m in per_team_round(found) if m.size >= MODEL]
    # Teams that were drawn may be of any row.
    assert team.groups == (ROWS if teams is None else ALL)
    assert team.size <= 2 * MODEL + 64
    assert sum(m.size for m in per_global_round(found)) <= MODEL + 64


# A method whose server receives every device's model, by design.
SENDS_MODELS = {"demlearn": "its server clusters the models of all devices"}


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - set(SENDS_MODELS)))
def test_no_method_moves_models_or_samples_of_devices(name):
    found = round_messages((2, 2), name)
    for message in found:
        assert message.kind == "all-reduce", message
        assert message.size <= TEAMS * MODEL + 64, message


@pytest.mark.parametrize(("name", "reason"), SENDS_MODELS.items(), ids=str)
def test_some_send_the_models_of_devices_once_and_no_samples(name, reason):
    """Nor do chips talk in the steps or while they cluster, which are inner loops."""
    print(f"{name} is an exception: {reason}")
    found = round_messages((2, 2), name)
    assert per_team_round(found) == []
    gathers = [m for m in found if m.kind == "all-gather"]
    rest = [m for m in found if m.kind != "all-gather"]
    # All the models in a round, their distances, and who is in which group.
    assert sum(m.size for m in gathers) >= DEVICES * MODEL
    assert sum(m.size for m in gathers) <= DEVICES * (MODEL + 64)
    # And, once, the mean model of each group, and the root.
    assert {m.kind for m in rest} == {"all-reduce"}
    assert sum(m.size for m in rest) <= (GROUPS + 1) * MODEL + 128, rest
