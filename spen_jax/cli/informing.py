"""`spen-jax info`: of the installation, or of a model."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, cast

import jax
from tyro.conf import Positional

from spen_jax.cli import folders
from spen_jax.cli.options import Flag, option
from spen_jax.cli.saying import Voice, table
from spen_jax.data.examples import several
from spen_jax.data.files import place
from spen_jax.estimators.saving import written_by

LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "scikit-learn",
    "safetensors",
    "tyro",
    "rich",
    "pyarrow",
)


@dataclass(frozen=True)
class Info:
    """Say which versions and devices there are and where data lie, or what a trained model is."""

    model: Annotated[Positional[Path | None], option("MODEL")] = None
    """a folder that train wrote, or a file that an estimator's save wrote"""
    json: Flag = False
    """print one JSON object"""
    quiet: Flag = False
    """print nothing but errors, and what --json asks for"""

    def __call__(self) -> None:
        """Prints it."""
        model = cast(Path | None, self.model)
        found = of_here() if model is None else of_model(model)
        rows = [(name, _text(value)) for name, value in found.items()]
        Voice(self.quiet, self.json).result(found, table(rows))


def of_here() -> dict[str, Any]:
    """Versions, devices, and where data and what was compiled lie."""
    found: dict[str, Any] = {"spen_jax": version("spen_jax"), "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    compiled = getattr(jax.config, "jax_compilation_cache_dir", None)
    return found | {
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "cores": os.cpu_count(),
        "data": str(place()),
        "compiled": compiled,
    }


def of_model(given: Path) -> dict[str, Any]:
    """What a model's file and folder say of it."""
    model, said, path = folders.model_of(given)
    config = path.parent / folders.CONFIG
    settings = folders.read_json(config) if config.exists() and said else {}
    classes = getattr(model, "classes_", None)
    labels = said.get("labels") if classes is None else [str(name) for name in classes]
    if labels is None:
        labels = [str(i) for i in range(len(getattr(model, "y_shift_", ())))]
    features = said.get("features")
    if isinstance(features, list):
        features = [*features, *(f"words of {name}" for name in said.get("words", {}))]
    return {
        "class": type(model).__name__,
        "task": settings.get("task"),
        "labels": labels,
        "inputs": getattr(model, "n_features_in_", None),
        "features": features,
        "trained on": settings.get("data"),
        "written": settings.get("written"),
        "by": f"spen_jax {written_by(path)}",
        "file": str(path),
        "bytes": path.stat().st_size,
    }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return several(value, 8) if len(value) != 1 else str(value[0])
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return "-" if value is None else str(value)
