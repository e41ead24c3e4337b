"""What an upload carries: a model's difference, coded in few bytes, or nothing at all.

The sender knows the model that the receiver has. It adds to its difference from that
model what earlier messages left out, codes the sum, and keeps what the code leaves out:

    v = (model - known) + memory;  sent = C(v);  memory <- v - sent

    int8    per array, scale = max|v| / 127; v/scale goes to one of the whole numbers
            beside it at random, so that the mean of sent is v; |v - sent| < scale
    topk:s  of all P numbers of the model together, the s·P of largest |v|; others as 0

Sources: Alistarh et al., "QSGD", NeurIPS 2017, arXiv:1610.02132 (random rounding);
Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014 (the memory);
Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, arXiv:1809.07599
(top-k); Karimireddy et al., "Error Feedback Fixes SignSGD", ICML 2019,
arXiv:1901.09847. What travels down is a whole model. See docs/uplink.md.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from permfl_jax.errors import InputError
from permfl_jax.types import Params

TIERS = ("device", "team")
_LEVELS = 127  # of int8 on each side of 0
_PLACE_BYTES = 4  # of topk: where a number stands


@dataclasses.dataclass(frozen=True)
class Code:
    """How a message is written.

    Attributes:
      kind: `int8` or `topk`.
      share: of the model's numbers that `topk` sends, above 0 and at most 1.
    """

    kind: str
    share: float = 1.0

    @classmethod
    def parse(cls, flag: str, text: str) -> "Code | None":
        """Of `none`, `int8` or `topk:SHARE`.

        Args:
          flag: that it was given to.
          text: as it was given.

        Raises:
          InputError: it is none of these, or the share is not above 0 and at most 1.

        Examples:
          >>> Code.parse('--team_upload', 'topk:0.01')
          Code(kind='topk', share=0.01)
          >>> Code.parse('--team_upload', 'topk:2')
          Traceback (most recent call last):
          permfl_jax.errors.InputError: --team_upload=topk:2 must be none, int8 or ...
        """
        if text == "none":
            return None
        if text == "int8":
            return cls("int8")
        kind, _, share = text.partition(":")
        try:
            part = float(share) if kind == "topk" else 0.0
        except ValueError:
            part = 0.0
        if not 0 < part <= 1:
            raise InputError(
                f"{flag}={text} must be none, int8 or topk:SHARE with a share above 0 "
                "and at most 1."
            )
        return cls(kind, part)

    def __str__(self) -> str:
        return f"topk:{self.share:g}" if self.kind == "topk" else self.kind

    def __call__(self, key: jax.Array, message: Params) -> Params:
        """What the receiver reads, for ONE message.

        Args:
          key: of this message; consumed.
          message: leaves `[...]`.
        """
        if self.kind == "topk":
            return _largest(message, self.entries(message))
        leaves, structure = jax.tree.flatten(message)
        own = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(structure, map(_rounded, own, leaves))

    def entries(self, model: Params) -> int:
        """The numbers that `topk` sends, at least 1."""
        return max(1, round(self.share * _size(model)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uplink:
    """What happens to uploads, on both tiers.

    Attributes:
      device: code of what devices send, or `None`.
      team: code of what teams send to the server, or `None`.
      device_loss: probability that a device's upload does not arrive.
      team_loss: likewise of a team's.
      memory: senders keep what their code left out, and add it to the next message.

    Raises:
      InputError: a probability is not from 0 to 1.
    """

    device: Code | None = None
    team: Code | None = None
    device_loss: float = 0.0
    team_loss: float = 0.0
    memory: bool = True

    def __post_init__(self):
        for tier in TIERS:
            loss = getattr(self, f"{tier}_loss")
            if not 0 <= loss <= 1:
                raise InputError(
                    f"--{tier}_loss must be a probability from 0 to 1, got {loss}."
                )

    def given(self, tier: str) -> list[str]:
        """The flags that change the uploads of a tier."""
        code, loss = getattr(self, tier), getattr(self, f"{tier}_loss")
        flags = [] if code is None else [f"--{tier}_upload={code}"]
        return flags + ([f"--{tier}_loss={loss:g}"] if loss else [])


class Link(NamedTuple):
    """The uploads of one tier.

    Attributes:
      tier: `device` or `team`.
      code: or `None`: whole models.
      loss: probability that one does not arrive.
      remembers: senders keep what the code left out.
    """

    tier: str
    code: Code | None
    loss: float
    remembers: bool

    @classmethod
    def of(cls, uplink: Uplink | None, tier: str) -> "Link | None":
        """`None` where every upload is a whole model and arrives."""
        if uplink is None or not uplink.given(tier):
            return None
        code, loss = getattr(uplink, tier), getattr(uplink, f"{tier}_loss")
        return cls(tier, code, loss, uplink.memory and code is not None)


def coded(
    code: Code, key: jax.Array, difference: Params, memory: Params | None
) -> tuple[Params, Params | None]:
    """What arrives of ONE message, and what its sender then keeps.

    Args:
      code: how it is written.
      key: of this message; consumed.
      difference: from the model that the receiver has, leaves `[...]`.
      memory: what earlier messages left out, leaves `[...]`, or `None`.

    Examples:
      Of (3, 1) with (0, 1.5) kept, the largest number is 3, and 2.5 waits.

      >>> value, kept = jnp.array([3.0, 1.0]), jnp.array([0.0, 1.5])
      >>> sent, kept = coded(Code('topk', 0.5), jax.random.key(0), value, kept)
      >>> sent.tolist(), kept.tolist()
      ([3.0, 0.0], [0.0, 2.5])
    """
    if memory is None:
        return code(key, difference), None
    message = jax.tree.map(jnp.add, difference, memory)
    sent = code(key, message)
    return sent, jax.tree.map(jnp.subtract, message, sent)


def upload_bytes(code: Code | None, model: Params) -> int:
    """Bytes of one upload.

    `int8` is a byte a number and a scale an array. `topk` is a place and a number for
    each that is sent, or the whole model with zeros where that is shorter.

    Args:
      code: or `None`: the whole model.
      model: arrays, or their shapes and dtypes.

    Examples:
      >>> model = {'w': jnp.zeros((10, 9), 'float32'), 'b': jnp.zeros(10, 'float32')}
      >>> [upload_bytes(c, model) for c in (Code('int8'), Code('topk', 0.1))]
      [108, 80]
    """
    leaves = jax.tree.leaves(model)
    whole = sum(x.size * x.dtype.itemsize for x in leaves)
    if code is None:
        return whole
    if code.kind == "topk":
        number = jnp.result_type(*leaves).itemsize
        return min(whole, (_PLACE_BYTES + number) * code.entries(model))
    return sum(x.size + x.dtype.itemsize for x in leaves)


def _size(model):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(model))


def _largest(message, count):
    """The `count` largest of all leaves together, ties to the first; others 0."""
    leaves, structure = jax.tree.flatten(message)
    common = jnp.result_type(*leaves)
    sizes = jnp.concatenate([jnp.abs(x).astype(common).ravel() for x in leaves])
    _, places = jax.lax.top_k(sizes, count)
    chosen = jnp.zeros(sizes.shape, bool).at[places].set(True)
    parts, first = [], 0
    for x in leaves:
        own = chosen[first : first + x.size].reshape(x.shape)
        parts.append(jnp.where(own, x, jnp.zeros_like(x)))
        first += x.size
    return jax.tree.unflatten(structure, parts)


def _rounded(key, x):
    """One array in 255 levels, up or down at random."""
    scale = jnp.abs(x).max() / _LEVELS
    level = x / jnp.where(scale > 0, scale, jnp.ones_like(scale))
    up = jax.random.uniform(key, x.shape, x.dtype)
    # What is largest may be 127.00001 levels.
    return jnp.clip(jnp.floor(level + up), -_LEVELS, _LEVELS) * scale
