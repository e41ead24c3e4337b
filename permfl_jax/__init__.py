"""permfl_jax: multi-tier personalised federated learning in JAX."""

__version__ = "0.1.0"
