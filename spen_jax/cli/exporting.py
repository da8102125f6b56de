"""`spen-jax export`: a trained model as one file that runs with jax and numpy alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from spen_jax.cli import folders
from spen_jax.cli.options import Flag, ModelPath
from spen_jax.cli.saying import Usage, Voice, Wrong


@dataclass(frozen=True)
class Export:
    """Write a trained model with its programs into one file, which spen_jax.serving runs with jax and numpy alone.

    The file is a model's as well: info and spen_jax.load read it.
    """

    model: ModelPath
    """the folder that train wrote"""
    out: Annotated[Path | None, arg(metavar="PATH")] = None
    """the file to write, such as model.bundle.safetensors"""
    quiet: Flag = False
    """print nothing but errors"""

    def __call__(self) -> None:
        """Exports."""
        if self.out is None:
            raise Usage("--out PATH names the file to write")
        folders.check_writable(self.out)
        if self.out.exists() and not self.out.is_file():  # it would be replaced
            raise Wrong(f"--out {self.out} is a device or a pipe: name a file")
        model, *_ = folders.model_of(self.model)
        try:
            model.save(self.out, programs=True)
        except (TypeError, ImportError) as error:
            raise Wrong(str(error)) from None
        size = self.out.stat().st_size
        Voice(self.quiet).note(f"{self.out}: {size / 1e6:.1f} MB, for spen_jax.serving")
