"""The numbers of every way to train one energy, by data set and method, and what was tuned on validation rows."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from experiments import shared


@dataclass(frozen=True)
class Settings:
    """The numbers of a method on a data set."""

    width: int = 1000
    """Hidden units of the feature network."""
    input_dropout: float = 0.3
    dropout: float = 0.8
    global_units: int = 16
    global_dropout: float = 0.0
    sees_features: bool = False
    """Whether the global term sees the hidden units."""

    epochs: int = 30
    """Of a network's or an end-to-end training."""
    energy_epochs: int = 3
    """First phase of a method that starts from a trained network: its hidden layer is frozen."""
    joint_epochs: int = 8
    """Second phase: all parameters are free."""
    learning_rate: float = 3e-3
    """Of networks and end-to-end trainings, and of the first phase."""
    joint_rate: float = 3e-4
    """Of the second phase."""
    global_rate: float = 100.0
    """Factor of the global term's learning rate: at the network's own it hardly leaves its start."""
    weight_decay: float = 0.1
    joint_decay: float = 0.01
    batch_size: int = 128
    patience: int = 10
    """Epochs without a better validation F1 after which a training stops."""
    to_the_end: bool = False
    """Whether an end-to-end training keeps its last epoch, and not the best on validation rows."""
    others: bool = False
    """Whether each row also sees what other training rows' labels say of it, see inputs.Inputs."""
    average: float | None = None
    """Decay of the moving average of the parameters that is evaluated, or None."""

    steps: int = 10
    """Of inference."""
    soft_f1_weight: float = 50.0
    """The task loss is cross-entropy + this x (1 - soft F1)."""
    margin: float = 6.0
    """The cost D is this x the squared error."""
    samples: int = 10
    """Noise samples or chain steps."""
    weight: float = 1.0
    """Of the energy in a task network's loss, or of cross-entropy in an inference network's."""


SMALL = Settings(width=200, dropout=0.5, input_dropout=0.2, epochs=60)
DEFAULTS = {
    "bibtex": Settings(),
    "delicious": Settings(dropout=0.5, epochs=12, batch_size=256),
    "scene": SMALL,
    "yeast": SMALL,
}
QUICK = {"width": 32, "epochs": 2, "energy_epochs": 1, "joint_epochs": 1, "samples": 2}
"""What a quick run has in place of everything else."""

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
"""By method, in place of the defaults of every data set."""

ENDS_OF_SMALL = {
    "input_dropout": 0.3,
    "dropout": 0.65,
    "weight_decay": 0.3,
    "batch_size": 64,
    "global_units": 32,
    "global_dropout": 0.2,
    "sees_features": True,
    "soft_f1_weight": 10.0,
}
TUNED: dict[tuple[str, str], dict[str, Any]] = {
    ("bibtex", "end-to-end"): {"batch_size": 256},
    ("scene", "end-to-end"): ENDS_OF_SMALL,
    ("yeast", "end-to-end"): ENDS_OF_SMALL,
}
"""By data set and method, what was better on validation rows than the defaults; Yeast and Scene by tune.py."""
AVERAGED = {"batch_size": 64, "average": 0.99}
OF_CONTROL: dict[tuple[str, str], dict[str, Any]] = {
    ("scene", "end-to-end"): AVERAGED | {"weight_decay": 0.3, "soft_f1_weight": 10.0},
    ("yeast", "end-to-end"): AVERAGED
    | {"input_dropout": 0.3, "dropout": 0.65, "soft_f1_weight": 25.0},
}
"""The same for the control, where it wants other settings."""


def settings_of(
    dataset: str,
    method: str,
    override: dict[str, float] | None = None,
    *,
    control: bool = False,
    quick: bool = False,
) -> Settings:
    """The defaults of data set and method, then what was tuned, then what the caller asks for; fails on bad values."""
    key = dataset, method
    tuned = OF_CONTROL.get(key, TUNED.get(key, {})) if control else TUNED.get(key, {})
    known = dataclasses.asdict(Settings())
    if unknown := [name for name in override or {} if name not in known]:
        shared.fail(f"--override knows {', '.join(known)}, got {', '.join(unknown)}")
    wanted = {
        name: value if known[name] is None else type(known[name])(value)
        for name, value in (override or {}).items()
    }
    own = OWN.get(method, {}) | tuned | wanted | (QUICK if quick else {})
    settings = dataclasses.replace(DEFAULTS[dataset], **own)
    for name in ("input_dropout", "dropout", "global_dropout"):
        if not 0 <= getattr(settings, name) < 1:
            shared.fail(f"{name} needs a share from 0 to below 1, got {getattr(settings, name)}")
    counts = "width", "epochs", "energy_epochs", "joint_epochs", "batch_size", "samples", "patience"
    shared.check_least(settings, **dict.fromkeys(counts, 1))
    return settings
