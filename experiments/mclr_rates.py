"""Rates of PerMFL on l2-regularised MCLR, whose optimum is computed to 1e-10."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import assemble, bounds, data, models, task, theory
from permfl_jax.participation import Sampler
from permfl_jax.theory import Curvature, Settings
from permfl_jax.types import Federation, Params

from . import envelope_slopes, intervals, reference_optimum, straight, watch
from .watch import Numbers, Subject

L2 = 0.3
PULLS = {"device_prox": 1.0, "team_prox": 1.0}
TEAMS = (3,) * 3
_SHRINK = 1e-10
_MARKS = 25
_AWAY = 0.5  # of the starts, in each parameter
_SAMPLES = 600
# Pictures of ten classes that nobody owns: 600 of them are dealt to 9 devices.
DATASETS = ("digits", "mnist", "fashion_mnist", "emnist_digits")


class Problem(NamedTuple):
    """MCLR on some devices.

    Attributes:
      subject: loss and federation.
      like: a model, all zeros.
      curvature: the interval that holds that of every device's loss, everywhere.
    """

    subject: Subject
    like: Params
    curvature: Curvature


def problem(name: str, options: data.SourceOptions) -> Problem:
    """The first 600 pictures of a dataset on 3 teams of 3 devices, in float64."""
    examples = data.load(name, options)
    size = float(examples.x.max())
    x = examples.x[:_SAMPLES].reshape(_SAMPLES, -1).astype(np.float64) / size
    examples = examples._replace(x=x, y=examples.y[:_SAMPLES], scale=1.0, offset=0.0)
    built = assemble.build(
        examples,
        team_sizes=TEAMS,
        classes_per_device=5,
        validation_fraction=0.0,
        test_fraction=0.0,
    )
    spec = models.ModelSpec(
        dataset=name, sample_shape=x.shape[1:], num_classes=examples.num_classes
    )
    sample = x[0].astype(np.float32)  # as what a model is first made of
    classify = task.classification(models.build("mclr", spec), sample, l2=L2)
    like = classify.init(jax.random.key(0))
    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float64), like)
    devices = built.federation
    subject = Subject(classify.loss, devices, Sampler.of(devices), keep_models=True)
    return Problem(subject, like, Curvature(L2, L2 + _smoothness(devices)))


def _smoothness(devices: Federation) -> float:
    """Half the largest eigenvalue of any device's second moments, with the bias' 1."""
    pool = np.asarray(devices.train.pool["x"])
    highest = 0.0
    for start, count in zip(devices.train.start, devices.train.count, strict=True):
        x = np.c_[pool[start : start + count], np.ones(count)]
        highest = max(highest, np.linalg.norm(x, 2) ** 2 / int(count))
    return 0.5 * float(highest)


def settings(given: Problem, quick: bool) -> Iterator[tuple[str, Settings]]:
    """Sweep and numbers of the cells."""
    sizes = bounds.safe(given.curvature, **PULLS)._asdict()
    base = Settings(**sizes, **PULLS, team_steps=3, device_steps=5)
    for k, ell in [(3, 5)] if quick else [(1, 5), (3, 5), (5, 10), (10, 20)]:
        yield "loops", base._replace(team_steps=k, device_steps=ell)
    limit = bounds.limits(given.curvature, **PULLS).server_lr
    for share in (0.9,) if quick else (0.5, 0.9):
        yield "beta", base._replace(server_lr=share * limit)


def rows(
    given: Problem, name: str, seeds: Sequence[int], sweeps: Sequence[str], quick: bool
) -> Iterator[dict[str, Any]]:
    """A row for each setting of the sweeps; the reference is solved once."""
    plans = list(settings(given, quick))
    exact = reference_optimum.solve(given.subject, given.like, plans[0][1])
    for sweep, chosen in plans:
        if sweep in sweeps:
            yield {"sweep": sweep, **_row(given, name, chosen, exact, seeds)}


def _row(given, name, chosen, exact, seeds):
    local = reference_optimum.linearise(given.subject, given.like, chosen, exact.server)
    num_rounds = int(np.ceil(np.log(_SHRINK) / np.log(local.radius)))
    metrics = _follow(
        given, chosen, {"optimum": exact, "limit": local}, seeds, num_rounds
    )
    away = metrics.pop("server/model") - local.server
    errors = np.linalg.norm(away, axis=2)
    rate = straight.rates(errors)
    expected = intervals.interval(_predicted(local, errors, _starts(seeds, away)))
    ends = intervals.interval(metrics["server/to_optimum"][:, -1].tolist())
    moved = theory.progress(L2, **chosen._asdict())
    bias = float(np.linalg.norm(local.server - exact.server))
    slopes = envelope_slopes.gradient_sizes(
        given.subject, given.like, chosen, local.server
    )
    label = f"K={chosen.team_steps} L={chosen.device_steps}"
    inside = None
    if rate is not None and rate.half is not None and expected is not None:
        inside = bool(abs(expected.mean - rate.mean) <= rate.half)
    return {
        "cell": f"{name}: {label} βγ={chosen.server_lr * chosen.team_prox:.3g}",
        "settings": chosen._asdict(),
        "curvature": given.curvature._asdict(),
        "reference_gradient": exact.gradient,
        "rounds": errors.shape[1],
        "rate": rate and rate._asdict(),
        "tier_rates": straight.tier_rates(metrics),
        "predicted_rate": expected.mean if expected else local.radius,
        "inside": inside,
        "radius": local.radius,
        "flat_radius": 1 - moved.server,
        "relative_error": rate and abs((1 - rate.mean) / (1 - local.radius) - 1),
        "worst_rate": bounds.contractions(given.curvature, chosen).server,
        "floor": ends and ends._asdict(),
        "exact_floor": bias,
        "slopes": slopes._asdict(),
        "floor_bound": bounds.floor_at_rest(
            given.curvature,
            chosen,
            team_gradient=slopes.team,
            device_gradient=slopes.device,
        ).total,
        "limits": bounds.limits(given.curvature, **PULLS)._asdict(),
        "curves": _curves(metrics, local.radius),
    }


def _follow(given, chosen, marks, seeds, num_rounds):
    """`[R, T]` metrics of random starts."""
    unravel = jax.flatten_util.ravel_pytree(given.like)[1]
    models = {
        name: {
            "server": unravel(flat.server),
            "team": jax.vmap(unravel)(flat.team),
            "device": jax.vmap(unravel)(flat.device),
        }
        for name, flat in marks.items()
    }
    starts = [
        unravel(jnp.asarray(start)) for start in _starts(seeds, marks["limit"].server)
    ]
    numbers = Numbers(watch.gains(chosen), models)
    metrics, _ = watch.follow(
        given.subject, chosen, [numbers], watch.stack(starts), seeds, num_rounds, 20
    )
    return {key: values[:, 0] for key, values in metrics.items()}


def _starts(seeds, like):
    """`[R, P]`: x^0 of each seed."""
    size = like.shape[-1]
    return np.stack(
        [_AWAY * np.random.default_rng(seed).normal(size=size) for seed in seeds]
    )


def _predicted(local, errors, starts):
    """Slopes of the linear map over the same rounds, from x^0 on: no run tells it."""
    lines = [straight.fit(each) for each in errors]
    last = max((line.last for line in lines if line), default=0)
    push = jax.jit(jax.vmap(local.apply))
    vectors, sizes = jnp.asarray(starts - local.server), []
    for _ in range(last):
        vectors = push(vectors)  # error t is that after round t + 1
        sizes.append(np.linalg.norm(vectors, axis=1))
    found = np.array(sizes).T
    return [
        None if line is None else straight.slope(row, line.first, line.last)
        for row, line in zip(found, lines, strict=False)
    ]


def _curves(metrics, rate):
    """Distances to where the tiers end, beside lines of the predicted rate."""
    total = metrics["server/step"].shape[1]
    rounds = np.unique(np.linspace(1, total, min(_MARKS, total)).astype(int))
    shown = {}
    for tier in watch.TIERS:
        errors = metrics[f"{tier}/to_limit"]
        middle = np.exp(np.log(errors).mean(axis=0))
        line = straight.fit(middle)
        kept = rounds[rounds <= (line.last if line else total)]
        shown[tier] = {"measured": middle[kept - 1].tolist()}
        if line is not None:
            start = middle[line.first]
            shown[tier]["predicted"] = (
                start * rate ** (kept - 1.0 - line.first)
            ).tolist()
    fewest = min(len(curve["measured"]) for curve in shown.values())
    for curve in shown.values():
        for name in curve:
            curve[name] = curve[name][:fewest]
    return {"to": "limit", "rounds": rounds[:fewest].tolist(), **shown}
