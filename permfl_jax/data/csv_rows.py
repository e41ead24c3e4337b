"""Tables as comma-separated values whose first line names the columns."""

import csv
import io
from collections.abc import Sequence

from permfl_jax.errors import InputError


def read(content: bytes, columns: Sequence[str], where: str) -> list[dict[str, str]]:
    """The rows, `{column: text}`.

    Args:
      content: UTF-8.
      columns: that the first line has to name, in this order.
      where: what to call the file in an error.

    Raises:
      InputError: another encoding or other columns, or a row that is cut.
    """
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{where} is no table of UTF-8 text: {error}.") from error
    first = rows[0] if rows else []
    if first != list(columns):
        raise InputError(
            f"{where} must begin with the line {','.join(columns)}, got "
            f"{','.join(first)!r:.60}."
        )
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(columns):
            raise InputError(
                f"{where} has {len(row)} columns instead of {len(columns)} in row "
                f"{number}."
            )
    return [dict(zip(columns, row, strict=True)) for row in rows[1:]]
