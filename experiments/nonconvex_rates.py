"""Without convexity: the mean of |∇F|² beside its O(1/T) bound, and its slope."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from permfl_jax import assemble, bounds, data, models, task
from permfl_jax.participation import Sampler
from permfl_jax.theory import Settings

from . import cosine_family, intervals, watch
from .watch import Numbers, Subject

# λ and γ of SPEC's check: 1/λ + 1/γ = 0.58 is below 1/L = 1.
PULLS = {"device_prox": 2.5, "team_prox": 5.5}
DIM = 8
ROUNDS = 200
_MARKS = 25
# Strong enough for the inner loops of a network to come near their optima.
_NETWORK = Settings(
    device_lr=0.2,
    team_lr=0.25,
    server_lr=0.5,
    device_prox=2.0,
    team_prox=2.0,
    team_steps=5,
    device_steps=10,
)
_TEAMS = (3,) * 3
_HIDDEN = (16,)
_EACH = 40  # samples of a device


def settings(team_steps: int, device_steps: int, share: float = 1.0) -> Settings:
    """Safe step sizes; β a share of 1/γ."""
    lam, gamma = PULLS["device_prox"], PULLS["team_prox"]
    return Settings(
        device_lr=1 / (cosine_family.SMOOTHNESS + lam),
        team_lr=1 / (lam + gamma),
        server_lr=share / gamma,
        team_steps=team_steps,
        device_steps=device_steps,
        **PULLS,
    )


def cosine_rows(seeds: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """K and L, then β; T is an axis of the curves."""
    family = cosine_family.draw(0, 4, 5, DIM)
    lowest = cosine_family.lowest(family, **PULLS)
    loops = ((1, 1), (3, 5), (10, 20)) if quick else ((1, 1), (2, 3), (3, 5), (10, 20))
    plans = [("loops", settings(k, ell)) for k, ell in loops]
    plans += [("beta", settings(5, 10, s)) for s in ((0.25,) if quick else (0.1, 0.5))]
    return [_cosine(family, lowest, name, plan, seeds) for name, plan in plans]


def _cosine(family, lowest, name, chosen, seeds):
    devices = cosine_family.federation_of(family)
    subject = Subject(
        cosine_family.loss, devices, Sampler.of(devices), keep_models=True
    )
    starts = np.stack(
        [np.random.default_rng(s).uniform(-np.pi, np.pi, DIM) for s in seeds]
    )
    numbers = [Numbers(watch.gains(chosen), {})]
    metrics, _ = watch.follow(subject, chosen, numbers, starts, seeds, ROUNDS)
    x = np.concatenate([starts[:, None], metrics["server/model"][:, 0]], axis=1)
    exact = cosine_family.gradient(family, x[:, :-1], **PULLS)
    met = (x[:, :-1] - x[:, 1:]) / chosen.server_lr
    mean, error = _running((exact**2).sum(-1)), _running(((met - exact) ** 2).sum(-1))
    gap = cosine_family.value(family, starts, **PULLS).sum(axis=-1) - lowest
    rounds = np.arange(1, ROUNDS + 1)
    bound = np.asarray(
        bounds.gradient_bound(gap[:, None], chosen.server_lr, rounds, error)
    )
    marks = np.unique(np.geomspace(1, ROUNDS, _MARKS).astype(int))
    used = intervals.interval((mean / bound).max(axis=1).tolist())
    moduli = bounds.nonconvex(cosine_family.SMOOTHNESS, chosen)
    label = f"K={chosen.team_steps} L={chosen.device_steps}"
    return {
        "sweep": name,
        "cell": f"1-cos: {label} βγ={chosen.server_lr * chosen.team_prox:g}",
        "settings": chosen._asdict(),
        "rounds": ROUNDS,
        "curvature_of_F": moduli and moduli.server._asdict(),
        "mean_square": _interval(mean[:, -1]),
        "error_square": _interval(error[:, -1]),
        "bound": _interval(bound[:, -1]),
        "largest_share_of_bound": used and used._asdict(),
        "holds": bool((mean <= bound * (1 + 1e-9)).all()),
        "curves": {
            "rounds": marks.tolist(),
            "gradient": {
                "measured": mean[:, marks - 1].mean(axis=0).tolist(),
                "predicted": bound[:, marks - 1].mean(axis=0).tolist(),
            },
        },
    }


def _running(values):
    """Means over the first 1, 2, ... rounds, `[R, T]`."""
    return np.cumsum(values, axis=1) / np.arange(1, values.shape[1] + 1)


def _interval(values):
    found = intervals.interval(values.tolist())
    return found and found._asdict()


def network_row(
    name: str, options: data.SourceOptions, seeds: Sequence[int], quick: bool
) -> dict[str, Any]:
    """A DNN of one hidden layer, all samples in every step.

    ∇F has no closed form here: what is averaged is |x - x'|² / β², the inexact gradient
    that the server takes, and long inner loops check it at the last round.
    """
    subject, init = _network(name, options)
    starts = watch.stack([init(jax.random.key(seed)) for seed in seeds])
    total = 40 if quick else 400
    numbers = [Numbers(watch.gains(_NETWORK), {})]
    metrics, state = watch.follow(subject, _NETWORK, numbers, starts, seeds, total, 20)
    met = (metrics["server/step"][:, 0] / _NETWORK.server_lr) ** 2
    mean = _running(met)
    marks = np.unique(np.geomspace(1, mean.shape[1], _MARKS).astype(int))
    label = f"K={_NETWORK.team_steps} L={_NETWORK.device_steps}"
    return {
        "sweep": "network",
        "cell": f"{name}: DNN {label}",
        "settings": _NETWORK._asdict(),
        "rounds": mean.shape[1],
        "mean_square": _interval(mean[:, -1]),
        "slope": _interval(np.array([_slope(row) for row in mean])),
        "last_square": _interval(met[:, -1]),
        "long_loops_square": _interval(_long_gradient(subject, state, seeds)),
        "curves": {
            "rounds": marks.tolist(),
            "gradient": {"measured": mean[:, marks - 1].mean(axis=0).tolist()},
        },
    }


def _slope(mean):
    """Of log mean against log T, over the second half of the logarithms."""
    first = int(np.sqrt(len(mean)))
    rounds = np.arange(first, len(mean) + 1)
    return float(np.polyfit(np.log(rounds), np.log(mean[first - 1 :]), 1)[0])


def _long_gradient(subject, state, seeds):
    """|∇F|² at the last x, by a round whose inner loops are four times as long."""
    longer = _NETWORK._replace(
        team_steps=4 * _NETWORK.team_steps, device_steps=4 * _NETWORK.device_steps
    )
    last = jax.tree.map(lambda x: x[:, 0], state.server)
    metrics, _ = watch.follow(
        subject, longer, [Numbers(watch.gains(longer), {})], last, seeds, 1
    )
    return (metrics["server/step"][:, 0, 0] / longer.server_lr) ** 2


def _network(name, options):
    """One hidden layer, on 40 samples of each of 9 devices, in float64."""
    examples = _few(data.load(name, options))
    built = assemble.build(
        examples,
        team_sizes=_TEAMS,
        validation_fraction=0.0,
        test_fraction=0.0,
        classes_per_device=5,
    )
    spec = models.ModelSpec(
        dataset=name,
        sample_shape=examples.x.shape[1:],
        num_classes=examples.num_classes,
        hidden=_HIDDEN,
    )
    sample = examples.x[0].astype(np.float32)  # as what a model is first made of
    network = task.classification(models.build("dnn", spec), sample)

    def init(key):
        return jax.tree.map(lambda x: x.astype(jnp.float64), network.init(key))

    devices = built.federation
    return Subject(network.loss, devices, Sampler.of(devices)), init


def _few(examples):
    """The first samples of each device, or of all where nobody owns them."""
    if examples.device is None:
        kept = np.arange(_EACH * sum(_TEAMS))
    else:
        owners = range(sum(_TEAMS))
        kept = [np.flatnonzero(examples.device == d)[:_EACH] for d in owners]
        kept = np.concatenate(kept)
        examples = examples._replace(device=examples.device[kept])
    x = examples.x[kept].astype(np.float64) * examples.scale + examples.offset
    return examples._replace(x=x, y=examples.y[kept], scale=1.0, offset=0.0)
