"""Large numbers as people read them."""

import math

_DECIMAL = ("", "k", "M", "G", "T", "P", "E")


def _scaled(number: float | int) -> tuple[str, str]:
    """Three digits, and the prefix of the unit."""
    for power in range(len(_DECIMAL) - 1, 0, -1):
        # What would be rounded up to 1000 belongs to the next.
        if 999.5 * 1000 ** (power - 1) <= abs(number) < math.inf:
            return f"{number / 1000**power:.3g}", _DECIMAL[power]
    return f"{number:.3g}", ""


def short(number: float | int) -> str:
    """1234567 as `1.23M`."""
    return "".join(_scaled(number))


def quantity(number: float | int, unit: str) -> str:
    """1234567 flop as `1.23 Mflop`."""
    digits, prefix = _scaled(number)
    return f"{digits} {prefix}{unit}"


def binary(number: float | int) -> str:
    """1234567 bytes as `1.18 MiB`."""
    size, unit = float(number), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 999.5 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.3g} {unit}"


def speed(flops_per_second: float, fraction: float | None) -> str:
    """`12.3 GFLOP/s`, and how much of the peak that is."""
    text = quantity(flops_per_second, "FLOP/s")
    if fraction is None:
        return text
    return f"{text} ({fraction:.{0 if fraction >= 0.1 else 1}%} of peak)"


def counted(count: int, what: str) -> str:
    """A number of things: `1 equation`, `1,024 equations`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
