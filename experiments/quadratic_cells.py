"""The settings in which PerMFL's rate on quadratics is measured, by sweep."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from permfl_jax import bounds
from permfl_jax.theory import Curvature, Settings

DIM = 6
ENDS = Curvature(0.5, 5.0)
PULLS = {"device_prox": 2.0, "team_prox": 2.0}
SAMPLES = 8  # of each device


class Cell(NamedTuple):
    """One setting of one sweep.

    Attributes:
      sweep: its name.
      label: what is special about it.
      settings: all numbers of PerMFL.
      team_sizes: devices of each team.
      teams_per_round: m, or `None` for all.
      devices_per_round: n, or `None` for all.
      batch_size: B, or `None` for all samples.
      aligned: whether all devices have one diagonal Hessian, the worst case of ρ_x.
    """

    sweep: str
    label: str
    settings: Settings
    team_sizes: tuple[int, ...] = (5,) * 4
    teams_per_round: int | None = None
    devices_per_round: int | None = None
    batch_size: int | None = None
    aligned: bool = False

    @property
    def noisy(self) -> bool:
        """Whether rounds are drawn."""
        drawn = (self.teams_per_round, self.devices_per_round, self.batch_size)
        return any(number is not None for number in drawn)


def settings(team_steps: int = 5, device_steps: int = 10, **changes: Any) -> Settings:
    """Safe step sizes for the curvatures of this file, but for the changes."""
    chosen = bounds.safe(ENDS, **PULLS)._asdict() | PULLS | changes
    return Settings(**chosen, team_steps=team_steps, device_steps=device_steps)


def cells(sweeps: Sequence[str], quick: bool) -> Iterator[Cell]:
    """Those of the sweeps asked for."""
    for name in sweeps:
        yield from SWEEPS[name](quick)


def _loops(quick):
    full = ((1, 1), (2, 5), (5, 10), (10, 20), (20, 40))
    for k, ell in full[::2] if quick else full:
        yield Cell("loops", f"K={k} L={ell}", settings(k, ell))


def _aligned(quick):
    for k, ell in ((1, 1), (20, 40)) if quick else ((1, 1), (5, 10), (20, 40)):
        yield Cell("aligned", f"K={k} L={ell}", settings(k, ell), aligned=True)


def _beta(quick):
    base = settings()
    limit = bounds.limits(ENDS, **PULLS).server_lr
    for share in (0.1, 0.9) if quick else (0.1, 0.3, 0.6, 0.9):
        chosen = base._replace(server_lr=share * limit)
        yield Cell("beta", f"β={share}·2/L_F", chosen)


def _teams(quick):
    for m in (1, 8) if quick else (1, 2, 4, 8, 16):
        yield Cell("teams", f"M={m}", settings(), team_sizes=(5,) * m)


def _devices(quick):
    for n in (1, 20) if quick else (1, 2, 5, 20):
        yield Cell("devices", f"N={n}", settings(), team_sizes=(n,) * 4)


def _participation(quick):
    shares = ((None, 2), (2, None), (2, 2), (1, 1))
    for m, n in shares[2:3] if quick else shares:
        label = f"m={m or 4} of 4, n={n or 5} of 5"
        yield Cell(
            "participation", label, settings(), teams_per_round=m, devices_per_round=n
        )


def _batch(quick):
    for size in (2,) if quick else (4, 2, 1):
        yield Cell("batch", f"B={size} of {SAMPLES}", settings(), batch_size=size)


def _scale(quick):
    sizes = (100,) * 10 if quick else (1000,) * 100
    label = f"D={sum(sizes)}, M={len(sizes)}"
    yield Cell("scale", label, settings(3, 5), team_sizes=sizes)


# Name to its cells, few or all.
SWEEPS: dict[str, Callable[[bool], Iterator[Cell]]] = {
    "loops": _loops,
    "aligned": _aligned,
    "beta": _beta,
    "teams": _teams,
    "devices": _devices,
    "participation": _participation,
    "batch": _batch,
    "scale": _scale,
}
