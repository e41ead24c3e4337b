"""Scores of all three tiers against a plain loop over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from federations import gains, mclr_loss, mclr_params

from permfl_jax import evaluate, runner, scores, task
from permfl_jax.algorithms.permfl import permfl
from permfl_jax.cohort import Cohort
from permfl_jax.federation import from_arrays, team_sizes
from permfl_jax.participation import Sampler
from permfl_jax.schedule import Schedule

# Below, at and above the block of 64 in which samples are scored; none; several.
TEST_COUNTS = [1, 63, 0, 64, 65, 200, 128]
TEAMS = [0, 0, 1, 1, 1, 2, 2]
DIM, CLASSES = 5, 3


def samples(rng, n):
    return {
        "x": rng.normal(size=(n, DIM)),
        "y": rng.integers(0, CLASSES, n).astype(np.int32),
    }


def metrics_fn(params, batch):
    logits = batch["x"] @ params["weight"].T + params["bias"][None]
    hit = logits.argmax(axis=1) == batch["y"].astype(jnp.int64)
    return {"accuracy": hit.astype(float), "loss": mclr_loss(params, batch)}


def stacked_params(seed, number):
    each = [mclr_params(seed + i) for i in range(number)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def score_loop(params, data):
    """Accuracy and loss of each sample of one device, in NumPy."""
    logits = data["x"] @ np.asarray(params["weight"]).T + np.asarray(params["bias"])
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses = (
        np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(logits)), data["y"]]
    )
    return logits.argmax(axis=1) == data["y"], losses


@pytest.fixture(scope="module")
def ragged():
    """Federation, its splits as lists of devices, and models of the three tiers."""
    rng = np.random.default_rng(0)
    train = [samples(rng, n) for n in (3, 70, 1, 64, 5, 9, 130)]
    validation = [samples(rng, n) for n in (0, 2, 1, 0, 0, 90, 4)]
    test = [samples(rng, n) for n in TEST_COUNTS]
    federation = from_arrays(train, TEAMS, validation=validation, test=test)
    models = {
        "PM": ("device", stacked_params(10, 7)),
        "TM": ("team", stacked_params(30, 3)),
        "GM": ("server", mclr_params(40)),
    }
    splits = {"train": train, "validation": validation, "test": test}
    return federation, splits, models


def model_of(models, label, device):
    if label == "GM":
        return models[label][1]
    row = device if label == "PM" else TEAMS[device]
    return jax.tree.map(lambda x: x[row], models[label][1])


def test_rows_equal_the_loop_over_devices(ragged):
    federation, splits, models = ragged
    row = evaluate.Evaluator(metrics_fn, federation).rows(models)
    expected = {}
    for label in models:
        for split, devices in splits.items():
            scores = [
                score_loop(model_of(models, label, d), data)
                for d, data in enumerate(devices)
            ]
            prefix = label if split == "test" else f"{label}/{split}"
            hits, losses = (np.concatenate(part) for part in zip(*scores, strict=True))
            expected[f"{prefix}/accuracy"] = hits.mean()
            expected[f"{prefix}/loss"] = losses.mean()
            each = [(hit.mean(), loss.mean()) for hit, loss in scores if len(hit)]
            assert len(each) == 6 or split != "test"  # one has no test sample
            hits, losses = np.transpose(each)
            expected[f"{prefix}/device_mean_accuracy"] = np.mean(hits)
            expected[f"{prefix}/device_mean_loss"] = np.mean(losses)
            expected[f"{prefix}/worst_decile_accuracy"] = np.percentile(hits, 10)
    assert row.keys() == expected.keys()
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-12), name
    # The three kinds of mean differ here, so none stands for another.
    on_test = [v for k, v in row.items() if k.startswith("PM/") and k.count("/") == 1]
    assert len({round(value, 6) for value in on_test}) == 5


def test_scores_are_sums_over_each_devices_own_samples(ragged):
    federation, splits, models = ragged
    scores = evaluate.Evaluator(metrics_fn, federation).scores(
        "device", models["PM"][1], ["test"]
    )["test"]
    np.testing.assert_array_equal(scores.count, TEST_COUNTS)
    for d, data in enumerate(splits["test"]):
        hits, losses = score_loop(model_of(models, "PM", d), data)
        assert scores.total["accuracy"][d] == hits.sum()
        assert scores.total["loss"][d] == pytest.approx(losses.sum(), rel=1e-12, abs=0)


def test_one_model_for_all_scores_the_same_at_every_tier(ragged):
    federation, _, models = ragged
    model = models["GM"][1]
    copies = {
        "PM": ("device", jax.tree.map(lambda x: jnp.stack([x] * 7), model)),
        "TM": ("team", jax.tree.map(lambda x: jnp.stack([x] * 3), model)),
        "GM": ("server", model),
    }
    row = evaluate.Evaluator(metrics_fn, federation).rows(copies)
    for name in ("accuracy", "loss", "train/loss", "worst_decile_accuracy"):
        assert row[f"PM/{name}"] == pytest.approx(row[f"GM/{name}"], rel=1e-12)
        assert row[f"TM/{name}"] == pytest.approx(row[f"GM/{name}"], rel=1e-12)


def test_a_split_without_samples_gives_no_rows():
    rng = np.random.default_rng(1)
    devices = [samples(rng, 3), samples(rng, 4)]
    federation = from_arrays(devices, [0, 0])
    row = evaluate.Evaluator(metrics_fn, federation).rows(
        {"GM": ("server", mclr_params(2))}
    )
    assert {name.split("/")[1] for name in row} == {"train"}
    assert len(row) == 5


def test_metrics_of_any_name_are_pooled_and_only_accuracy_is_spread():
    rng = np.random.default_rng(2)
    devices = [samples(rng, 3), samples(rng, 4)]
    federation = from_arrays(devices, [0, 0], test=devices)

    def first(params, batch):
        return {"first": batch["x"][:, 0] + 0 * params["bias"][0]}

    row = evaluate.Evaluator(first, federation).rows({"GM": ("server", mclr_params(3))})
    names = {"first", "device_mean_first"}
    assert set(row) == {f"GM/{n}" for n in names} | {f"GM/train/{n}" for n in names}
    x = np.concatenate([d["x"][:, 0] for d in devices])
    assert row["GM/first"] == pytest.approx(x.mean(), rel=1e-12)


def test_majority_accuracy_equals_brute_force():
    rng = np.random.default_rng(3)
    for _ in range(20):
        labels = [
            (
                rng.integers(0, 4, rng.integers(1, 9)),
                rng.integers(0, 4, rng.integers(0, 9)),
            )
            for _ in range(6)
        ]
        labels[0] = (np.array([2, 2, 1]), np.array([2, 1, 1, 2, 2]))
        hits = total = 0
        for train, test in labels:
            guess = max(range(4), key=lambda c: (np.sum(train == c), -c))
            hits += np.sum(test == guess)
            total += len(test)
        counts = [
            np.stack([np.bincount(part, minlength=4) for part in side])
            for side in zip(*labels, strict=True)
        ]
        assert scores.majority_accuracy(*counts) == pytest.approx(hits / total)


NUMBERS = {"alpha": 0.1, "lam": 0.7, "a": 0.2, "b": 0.3, "g": 0.8}


def trained(sampler_options, schedule):
    rng = np.random.default_rng(4)
    devices = [samples(rng, n) for n in (4, 1, 6, 3)]
    federation = from_arrays(devices, [0, 0, 1, 1], test=devices)
    sampler = Sampler(team_sizes(federation), **sampler_options)
    algorithm = permfl(mclr_loss, schedule, sampler)
    state = runner.start(algorithm, mclr_params(5), federation)
    key, numbers = jax.random.key(6), gains(**NUMBERS)
    *_, (state, _) = runner.run(algorithm, key, numbers, state, federation, 2)
    return algorithm, key, numbers, state, federation, devices


def test_full_participation_has_nothing_to_adapt():
    schedule = Schedule(team_steps=1, device_steps=2, batch_size=None)
    algorithm, key, numbers, state, federation, _ = trained({}, schedule)
    models = evaluate.models_of(algorithm, key, numbers, state, federation)
    assert {k: tier for k, (tier, _) in models.items()} == {
        "PM": "device",
        "TM": "team",
        "GM": "server",
    }
    for name, tier in (("PM", "device"), ("TM", "team"), ("GM", "server")):
        assert models[name][1] is getattr(state, tier)


@pytest.mark.parametrize("options", [{"teams_per_round": 1}, {"devices_per_round": 1}])
def test_adapted_models_are_device_steps_from_the_team_model(options):
    schedule = Schedule(team_steps=2, device_steps=3, batch_size=None)
    algorithm, key, numbers, state, federation, devices = trained(options, schedule)
    models = evaluate.models_of(algorithm, key, numbers, state, federation)
    assert set(models) == {"PM", "TM", "GM", "PM_adapted"}
    tier, adapted = models["PM_adapted"]
    assert tier == "adapted"
    adapted = adapted(Cohort.everyone(federation))
    for d, data in enumerate(devices):
        anchor = [np.asarray(state.team[name][d // 2]) for name in ("weight", "bias")]
        theta = [part.copy() for part in anchor]
        for _ in range(schedule.device_steps):
            grads = oracles.mclr_gradient(*theta, data["x"], data["y"])
            theta = [
                t - NUMBERS["alpha"] * (g + NUMBERS["lam"] * (t - w))
                for t, g, w in zip(theta, grads, anchor, strict=True)
            ]
        np.testing.assert_allclose(adapted["weight"][d], theta[0], rtol=1e-10)
        np.testing.assert_allclose(adapted["bias"][d], theta[1], rtol=1e-10)
    # Devices that sat out were left where they were, so PM is another model.
    assert not np.allclose(adapted["weight"], state.device["weight"])


def f1(labels, guesses):
    """Macro-F1 by its definition, class after class."""
    found = []
    for c in sorted(set(labels)):
        both = sum(a == b == c for a, b in zip(labels, guesses, strict=True))
        precision = both / guesses.count(c) if c in guesses else 0.0
        recall = both / labels.count(c)
        total = precision + recall
        found.append(2 * precision * recall / total if total else 0.0)
    return sum(found) / len(found)


def test_scores_by_class_add_macro_f1_and_change_nothing_else(ragged):
    federation, data, models = ragged

    def logits(params, x):
        return x @ params["weight"].T + params["bias"][None]

    plain = task.Task(None, None, metrics_fn, logits)
    before = evaluate.Evaluator(metrics_fn, federation).rows(models)
    counted = scores.by_class(plain).metrics
    after = evaluate.Evaluator(counted, federation).rows(models)
    assert {k: v for k, v in after.items() if not k.endswith("macro_f1")} == before
    guesses = []
    for device, part in enumerate(data["test"]):
        own = jax.tree.map(lambda leaf, d=device: leaf[d], models["PM"][1])
        guesses += np.argmax(logits(own, part["x"]), axis=1).tolist()
    labels = np.concatenate([part["y"] for part in data["test"]]).tolist()
    assert after["PM/macro_f1"] == pytest.approx(f1(labels, guesses), rel=1e-5)
    assert set(after) - set(before) == {
        f"{label}/{split}macro_f1"
        for label in models
        for split in ("", "train/", "validation/")
    }
