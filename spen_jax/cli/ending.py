"""What is said where a signal ends a command, also by a thread that ends the process."""

_advice: list[str] = []


def advise(what: str | None) -> None:
    """From now on an early end says also this; None for nothing."""
    _advice[:] = [] if what is None else [what]


def advised(what: str) -> str:
    """The words with the advice behind them."""
    return "; ".join([what, *_advice])
