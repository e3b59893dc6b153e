"""Flags that hold several values with commas between."""

from __future__ import annotations

import math

import click


def names(ctx: click.Context, param: click.Parameter, text: str | None) -> list[str]:
    """`a,b,c`, each once, in the order given.

    Raises:
        click.BadParameter: there is none.
    """
    found = list(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))
    if text is not None and not found:
        raise click.BadParameter("names with commas between are wanted, such as a,b")
    return found


def numbers(ctx: click.Context, param: click.Parameter, text: str | None) -> list[float]:
    """`0.5,1,2`: above 0, each once, in the order given.

    Raises:
        click.BadParameter: one of them is no such number.
    """
    return [] if text is None else list(dict.fromkeys(_number(part) for part in text.split(",")))


def counts(ctx: click.Context, param: click.Parameter, text: str | None) -> list[int]:
    """`100k,1m,2000000`: whole numbers above 0; k and m are thousands and millions.

    Raises:
        click.BadParameter: one of them is no such number.
    """
    if text is None:
        return []
    found = []
    for part in text.split(","):
        word = part.strip().lower()
        factor = {"k": 1e3, "m": 1e6}.get(word[-1:], 1.0)
        number = _number(word[:-1] if factor != 1.0 else word) * factor
        if number != int(number):
            raise click.BadParameter(f"{part.strip()!r} is no whole number")
        found.append(int(number))
    return list(dict.fromkeys(found))


def prices(ctx: click.Context, param: click.Parameter, text: str | None) -> dict[str, float]:
    """`a=2.5,b=4`.

    Raises:
        click.BadParameter: a part is not NAME=PRICE.
    """
    found: dict[str, float] = {}
    for part in [] if text is None else text.split(","):
        name, equals, price = part.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{part.strip()!r} is not NAME=PRICE")
        found[name.strip()] = _number(price)
    return found


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise click.BadParameter(f"{text.strip()!r} is no number; numbers with commas between are wanted") from None
    if not 0.0 < number < math.inf:
        raise click.BadParameter(f"{text.strip()} must be above 0")
    return number
