"""Equations link to code that exists, and say what it computes."""

import importlib
import pathlib
import re
import sys

import numpy as np
import oracles
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from pages import DOCS, ROOT

from permfl_jax import theory

TEXT = (DOCS / "mathematics.md").read_text(encoding="utf-8")
PAGES = sorted(DOCS.rglob("*.md"))
LINKS = sorted(
    {
        (role, target)
        for page in PAGES
        for role, target in re.findall(
            r"\{py:(\w+)\}`~?([\w.]+)`", page.read_text(encoding="utf-8")
        )
    }
)


def resolve(target):
    """What a dotted name stands for: a module, or an attribute of one."""
    parts = target.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name)
        return found
    raise AssertionError(f"{target} does not exist")


@pytest.mark.parametrize(("role", "target"), LINKS)
def test_every_link_to_code_leads_somewhere(role, target):
    found = resolve(target)
    kinds = {"class": isinstance(found, type), "mod": hasattr(found, "__path__")}
    assert kinds.get(role, callable(found)) or role == "mod"
    # A link to what another module defines has no entry in the reference.
    if role != "mod":
        home = found.__module__
        assert target == f"{home}.{found.__qualname__}"


def test_every_equation_has_code_beside_it():
    sections = re.split(r"^\(eq-\w+\)=$", TEXT, flags=re.MULTILINE)[1:]
    assert len(sections) >= 9
    for section in sections:
        assert "{py:" in section, section[:80]


def test_what_is_included_exists():
    found = re.findall(r"```\{literalinclude\} (\S+)\n:pyobject: (\S+)\n", TEXT)
    assert len(found) == TEXT.count("{literalinclude}") >= 8
    for file, name in found:
        path = (DOCS / file).resolve()
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        assert callable(resolve(f"{dotted}.{name}"))


def test_the_bound_of_the_page_holds():
    """|x_T - x*| ≤ ρ_x^T |x_0 - x*| + (ρ_w^K G_F + ρ_θ^L G)/μ_F, in plain NumPy."""
    f = oracles.random_quadratics(4, (2, 3), 3, low=0.5, high=2.0)
    lam, gamma = 1.0, 1.5
    alpha, eta, beta = 1 / (2 + lam), 1 / (lam + gamma), 1 / gamma
    curvature = theory.Curvature(
        *(pick(np.linalg.eigvalsh(f.hessian)) for pick in (np.min, np.max))
    )
    rate = theory.contractions(
        curvature,
        device_lr=alpha,
        team_lr=eta,
        server_lr=beta,
        device_prox=lam,
        team_prox=gamma,
    )
    mu_f = theory.series(curvature.low, lam, gamma)
    best, *_ = oracles.optimum(f, lam, gamma)
    floors = []
    for k, steps in ((1, 1), (3, 5), (10, 30)):
        x, greatest = np.full(3, 4.0), [0.0, 0.0]
        far = np.linalg.norm(x - best)
        for _ in range(60):
            x, outer, inner = one_round(f, x, k, steps, alpha, eta, beta, lam, gamma)
            greatest = np.maximum(greatest, (outer, inner))
        floor = rate.team**k * greatest[0] + rate.device**steps * greatest[1]
        error = np.linalg.norm(x - best)
        assert error <= rate.server**60 * far + floor / mu_f
        floors.append(error)
    assert floors[0] > 10 * floors[1] > 100 * floors[2]


def one_round(f, x, k_steps, l_steps, alpha, eta, beta, lam, gamma):
    """x after a round, and the largest |∇F_i| and mean |∇f~_ij| on the way."""
    teams, outer, inner = [], 0.0, 0.0
    eye = np.eye(len(x))
    for i in range(f.num_teams):
        rows, w = f.members(i), x
        envelope = [lam * np.linalg.inv(f.hessian[j] + lam * eye) for j in rows]
        a = sum(f.p[j] * e @ f.hessian[j] for j, e in zip(rows, envelope, strict=True))
        d = sum(f.p[j] * e @ f.linear[j] for j, e in zip(rows, envelope, strict=True))
        exact = np.linalg.solve(a + gamma * eye, d + gamma * x)
        outer = max(outer, np.linalg.norm(gamma * (x - exact)))
        for _ in range(k_steps):
            mean, slopes = 0, 0.0
            for j, e in zip(rows, envelope, strict=True):
                slope = e @ (f.hessian[j] @ w - f.linear[j])
                slopes += f.p[j] * np.linalg.norm(slope)
                theta = w
                for _ in range(l_steps):
                    grad = f.hessian[j] @ theta - f.linear[j]
                    theta = theta - alpha * (grad + lam * (theta - w))
                mean = mean + f.p[j] * theta
            inner = max(inner, slopes)
            w = (1 - eta * lam - eta * gamma) * w + eta * gamma * x + eta * lam * mean
        teams.append(w)
    mean = sum(q * w for q, w in zip(f.q, teams, strict=True))
    return (1 - beta * gamma) * x + beta * gamma * mean, outer, inner
