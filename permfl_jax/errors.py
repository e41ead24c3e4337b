"""The two ways a run ends badly: the user's mistake, and divergence."""


class InputError(ValueError):
    """A user's mistake, told in one sentence: what was given, what is allowed."""


class DivergenceError(FloatingPointError):
    """A number stopped being finite. The message names round, tier and quantity.

    Attributes:
      round: counted from 1; 0 if it is not known.
    """

    def __init__(self, message: str, round_: int = 0):
        """Takes the message and the round."""
        super().__init__(message)
        self.round = round_
