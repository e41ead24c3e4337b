"""The two ways a run ends badly: the user's mistake, and divergence."""


class InputError(ValueError):
    """A user's mistake, told in one sentence: what was given, what is allowed."""


class DivergenceError(FloatingPointError):
    """A number stopped being finite. The message names round, tier and quantity."""
