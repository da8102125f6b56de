"""The numbers of every way to train one energy, by data set and method, and what was tuned on validation rows."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from experiments import shared


@dataclass(frozen=True)
class Settings:
    """The numbers of a method on a data set."""

    # The feature network and the global term, which may see the hidden units of the former.
    width: int = 1000
    input_dropout: float = 0.3
    dropout: float = 0.8
    global_units: int = 16
    global_dropout: float = 0.0
    sees_features: bool = False
    others: bool = (
        False  # whether rows see what other training rows' labels say of them, see inputs
    )

    # Training. A method that starts from a trained network has two phases: with its hidden layer frozen, then jointly.
    epochs: int = 30  # of a network's or an end-to-end training
    energy_epochs: int = 3
    joint_epochs: int = 8
    learning_rate: float = 3e-3  # of networks, end-to-end trainings and the first phase
    joint_rate: float = 3e-4
    global_rate: float = (
        100.0  # factor for the global term: at the network's rate it hardly leaves its start
    )
    weight_decay: float = 0.1
    joint_decay: float = 0.01
    batch_size: int = 128
    patience: int = 10  # epochs without a better validation F1 after which a training stops
    to_the_end: bool = (
        False  # whether an end-to-end training keeps its last epoch, and not the best
    )
    average: float | None = None  # decay of the moving average of the parameters that is evaluated

    steps: int = 10  # of inference
    soft_f1_weight: float = 50.0  # the task loss is cross-entropy + this x (1 - soft F1)
    margin: float = 6.0  # the cost D is this x the squared error
    samples: int = 10  # of noise, or steps of a chain
    weight: float = (
        1.0  # of the energy in a task network's loss, or of cross-entropy in an inference network's
    )


SMALL = Settings(width=200, dropout=0.5, input_dropout=0.2, epochs=60)
DEFAULTS = {
    "bibtex": Settings(),
    "delicious": Settings(dropout=0.5, epochs=12, batch_size=256),
    "scene": SMALL,
    "yeast": SMALL,
}
QUICK = {"width": 32, "epochs": 2, "energy_epochs": 1, "joint_epochs": 1, "samples": 2}

# By method, on every data set.
END_TO_END = {"steps": 3, "global_rate": 10.0}
OWN: dict[str, dict[str, Any]] = {
    "slack": {"margin": 1.0},
    "end-to-end": END_TO_END,
    "end-to-end-others": END_TO_END
    | {"others": True, "batch_size": 256, "epochs": 14, "to_the_end": True},
    "implicit": {"steps": 30, "global_rate": 10.0},
    "deep-value": {"joint_rate": 3e-5, "global_rate": 30.0},
    "inference-network": {"steps": 0, "global_rate": 10.0},
    "seal-static": {"steps": 0},
    "seal-dynamic": {"steps": 0},
}

# What was better on validation rows than that; Scene's and Yeast's by tune.py, and where it wants others the control's.
TERM = {"global_units": 32, "global_dropout": 0.2, "sees_features": True}
STRONG = {"input_dropout": 0.3, "dropout": 0.65, "weight_decay": 0.3, "soft_f1_weight": 10.0}
AVERAGED = {"batch_size": 64, "average": 0.99}
TUNED: dict[tuple[str, str], dict[str, Any]] = {
    ("bibtex", "end-to-end"): {"batch_size": 256},
    ("scene", "end-to-end"): STRONG | TERM | {"batch_size": 64},
    ("yeast", "end-to-end"): STRONG | TERM | {"batch_size": 64},
}
OF_CONTROL = TUNED | {
    ("scene", "end-to-end"): AVERAGED | {"weight_decay": 0.3, "soft_f1_weight": 10.0},
    ("yeast", "end-to-end"): AVERAGED | STRONG | {"weight_decay": 0.1, "soft_f1_weight": 25.0},
}


def settings_of(
    dataset: str, method: str, override: dict[str, float] | None = None, *, quick: bool = False
) -> tuple[Settings, Settings]:
    """Of a method and of its control: defaults, what was tuned, what the caller asks for. Fails on bad values."""
    known = dataclasses.asdict(Settings())
    if unknown := [name for name in override or {} if name not in known]:
        shared.fail(f"--override knows {', '.join(known)}, got {', '.join(unknown)}")
    wanted = (QUICK if quick else {}) | {
        name: value if known[name] is None else type(known[name])(value)
        for name, value in (override or {}).items()
    }
    of_spen, of_control = (
        dataclasses.replace(
            DEFAULTS[dataset], **OWN.get(method, {}) | tuned.get((dataset, method), {}) | wanted
        )
        for tuned in (TUNED, OF_CONTROL)
    )
    for name in ("input_dropout", "dropout", "global_dropout"):
        if not 0 <= getattr(of_spen, name) < 1:
            shared.fail(f"{name} needs a share from 0 to below 1, got {getattr(of_spen, name)}")
    counts = "width", "epochs", "energy_epochs", "joint_epochs", "batch_size", "samples", "patience"
    shared.check_least(of_spen, **dict.fromkeys(counts, 1))
    return of_spen, of_control
