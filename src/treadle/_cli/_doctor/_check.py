"""`Check`: one thing that the doctor looked at."""

import dataclasses
from typing import Literal

State = Literal["ok", "note", "change"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        group: What it belongs to, `"versions"`.
        name: What it is, `"jax"`.
        value: What was seen, `"0.10.2"`.
        state: `"ok"`; `"note"` for what costs something and may be meant; `"change"` for what is
            wrong.
        advice: What to do about it, and why.
    """

    group: str
    name: str
    value: str
    state: State = "ok"
    advice: str = ""
