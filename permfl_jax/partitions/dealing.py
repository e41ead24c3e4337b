"""What several schemes share: Dirichlet draws, dealing by shares, filling up."""

from collections.abc import Sequence

import numpy as np

from permfl_jax.errors import InputError

_SMALLEST = 1e-300  # below, log(uniform) / α could leave the range of float64


def draw_dirichlet(rng: np.random.Generator, alpha: np.ndarray) -> np.ndarray:
    """One Dirichlet draw for every row of concentrations.

    Made in logarithms, Gamma(α) = Gamma(α + 1) U^(1/α), because plain Gamma draws of
    a small α are all 0 and their ratio is then no number.

    Args:
      rng: the only source of randomness.
      alpha: `[..., n]`, at least 0 and not all 0 in a row; a 0 draws a 0.

    Returns:
      `[..., n]` float64, at least 0, each row with sum 1.
    """
    gamma = np.log(rng.standard_gamma(alpha + 1.0))
    uniform = np.log1p(-rng.random(alpha.shape))  # of (0, 1]
    power = np.full(alpha.shape, -np.inf)
    np.divide(uniform, alpha, out=power, where=alpha > _SMALLEST)
    logs = gamma + power
    weights = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def shuffled_classes(
    rng: np.random.Generator,
    labels: np.ndarray,
    num_classes: int,
    rows: np.ndarray | None = None,
) -> list[np.ndarray]:
    """The rows of each class, in random order.

    Args:
      rng: the only source of randomness; used class by class.
      labels: `[S]` integers in `[0, num_classes)`.
      num_classes: C.
      rows: `[n]` int64, the rows to sort; all S by default.

    Returns:
      C arrays of int64.
    """
    rows = np.arange(len(labels)) if rows is None else rows
    return [rng.permutation(own) for own in by_owner(rows, labels[rows], num_classes)]


def by_owner(rows: np.ndarray, owner: np.ndarray, num_owners: int) -> list[np.ndarray]:
    """The `rows` `[n]` of each owner, in order: `num_owners` arrays of int64."""
    counts = np.bincount(owner, minlength=num_owners)
    order = np.argsort(owner, kind="stable")
    return np.split(rows[order].astype(np.int64), np.cumsum(counts)[:-1])


def deal(class_rows: Sequence[np.ndarray], shares: np.ndarray) -> list[np.ndarray]:
    """Cuts every class at its cumulative shares, rounded: nothing is lost.

    Args:
      class_rows: C arrays, the rows of each class, n_c of them.
      shares: `[D, C]` at least 0. Of class c, device d gets the part
        `shares[d, c] / sum(shares[:, c])`, to within one row; nobody gets a class
        whose shares are all 0.

    Returns:
      D arrays of int64.
    """
    sizes = np.array([len(rows) for rows in class_rows])
    ends = np.cumsum(shares, axis=0)
    ends = np.divide(ends, ends[-1], out=np.zeros_like(ends), where=ends[-1] > 0)
    counts = np.diff(np.floor(ends * sizes + 0.5), axis=0, prepend=0).astype(np.int64)
    dealt = counts.sum(axis=0)
    rows = [rows[:count] for rows, count in zip(class_rows, dealt, strict=True)]
    devices = np.arange(len(shares))
    owner = [np.repeat(devices, counts[:, label]) for label in range(len(sizes))]
    return by_owner(np.concatenate(rows), np.concatenate(owner), len(shares))


def fill_up(
    rng: np.random.Generator, indices: Sequence[np.ndarray], at_least: int
) -> tuple[list[np.ndarray], int]:
    """Moves rows from the largest devices to those with fewer than `at_least`.

    As many leave each device as if they left one by one, always from the device that
    is then the largest (of equal ones the first). Which ones is drawn by lot, so that
    what a device keeps is mixed as before. There is no retry: it ends after one pass.

    Args:
      rng: the only source of randomness; not used if nothing is moved.
      indices: D arrays, n rows in all.
      at_least: rows of each device afterwards, or `n // D` if that is less.

    Returns:
      D arrays of int64, and how many rows were moved.

    Raises:
      InputError: if there are fewer rows than devices.
    """
    sizes = np.array([len(rows) for rows in indices])
    target = min(at_least, int(sizes.sum()) // len(sizes))
    if target < 1:
        raise InputError(
            f"{len(sizes)} devices were to share {sizes.sum()} samples, but each needs "
            "at least one: lower --devices_per_team."
        )
    missing = np.maximum(target - sizes, 0)
    given = _given(sizes, missing.sum())
    filled, moved = list(indices), []
    for d in np.flatnonzero(given).tolist():
        rows = rng.permutation(indices[d])
        filled[d] = rows[given[d] :]
        moved.append(rows[: given[d]])
    needy = np.flatnonzero(missing).tolist()
    parts = np.split(
        np.concatenate([*moved, np.zeros(0, np.int64)]), np.cumsum(missing[needy])
    )
    for d, rows in zip(needy, parts[:-1], strict=True):
        filled[d] = np.concatenate([filled[d], rows])
    return filled, int(missing.sum())


def _given(sizes, needed):
    """`[D]`: how many rows each device gives, the largest first; `needed` in all."""
    low, high = 0, int(sizes.max())
    while low < high:  # the highest level above which at least `needed` rows lie
        level = (low + high + 1) // 2
        enough = np.maximum(sizes - level, 0).sum() >= needed
        low, high = (level, high) if enough else (low, level - 1)
    given = np.maximum(sizes - low, 0)
    surplus = int(given.sum() - needed)
    givers = np.flatnonzero(given)
    given[givers[len(givers) - surplus :]] -= 1
    return given


def fill_up_teams(
    rng: np.random.Generator,
    indices: Sequence[np.ndarray],
    team_sizes: Sequence[int],
    at_least: int,
) -> tuple[list[np.ndarray], int]:
    """`fill_up` within each team of consecutive devices: no row changes its team."""
    filled, moved, start = [], 0, 0
    for size in team_sizes:
        team, count = fill_up(rng, indices[start : start + size], at_least)
        filled += team
        moved += count
        start += size
    return filled, moved
