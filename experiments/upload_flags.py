"""The flags that say how uploads are coded, and how often they are lost."""

from absl import flags

from permfl_jax.errors import InputError
from permfl_jax.uplink import Code, Uplink

_CODES = (
    "none; int8, 8 bits for each number; or topk:SHARE, that share of the numbers, "
    "those of largest size"
)
flags.DEFINE_string(
    "device_upload",
    "none",
    "How devices code what they send, their difference from the model above: "
    f"{_CODES}.",
)
flags.DEFINE_string(
    "team_upload", "none", "How teams code what they send to the server; as above."
)
flags.DEFINE_float(
    "device_loss", 0.0, "Probability that a device's upload does not arrive."
)
flags.DEFINE_float(
    "team_loss", 0.0, "Probability that a team's upload does not arrive."
)
flags.DEFINE_bool(
    "upload_memory",
    True,
    "Senders keep what their code leaves out and add it to the next upload (error "
    "feedback): one model more for each device, or team, that codes.",
)


def uplink_of(
    device: str, team: str, device_loss: float, team_loss: float, memory: bool
) -> Uplink | None:
    """The flags as the library takes them; `None` where they change nothing.

    Args:
      device: --device_upload.
      team: --team_upload.
      device_loss: the flag.
      team_loss: the flag.
      memory: --upload_memory.

    Raises:
      InputError: a code is unknown, a probability is none, or there is no code whose
        memory could be left out.
    """
    uplink = Uplink(
        device=Code.parse("--device_upload", device),
        team=Code.parse("--team_upload", team),
        device_loss=device_loss,
        team_loss=team_loss,
        memory=memory,
    )
    if uplink.device is None and uplink.team is None and not memory:
        raise InputError(
            "--noupload_memory needs an upload that is coded: give --device_upload or "
            "--team_upload as int8 or topk:SHARE."
        )
    return uplink if uplink.given("device") or uplink.given("team") else None
