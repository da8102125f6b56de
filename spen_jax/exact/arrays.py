"""Objects of named arrays and settings that pass through `jit`, `vmap` and `grad` as trees of arrays."""

from functools import partial
from typing import Any, ClassVar, Self

import jax
from jax.tree_util import GetAttrKey


class Arrays:
    """A pytree: `arrays` name its children, `settings` what is no array and must be equal where programs are shared."""

    arrays: ClassVar[tuple[str, ...]]
    settings: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls):
        jax.tree_util.register_pytree_with_keys(
            cls, cls._flatten, partial(made_of, cls), cls._plain_flatten
        )

    def _flatten(self):
        return [(GetAttrKey(n), getattr(self, n)) for n in self.arrays], self.said()

    def _plain_flatten(self):
        return [getattr(self, n) for n in self.arrays], self.said()

    def said(self) -> tuple[Any, ...]:
        """The settings."""
        return tuple(getattr(self, n) for n in self.settings)

    def replaced(self, **changed: Any) -> Self:
        """The same with others in place of some of its arrays and settings, by name, which are not looked at."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__ | changed)
        return new


def made_of(cls: Any, settings: Any, arrays: Any) -> Any:
    """One of a class, of its settings and arrays, which are not looked at."""
    new = object.__new__(cls)
    new.__dict__.update(zip(cls.settings, settings, strict=True))
    new.__dict__.update(zip(cls.arrays, arrays, strict=True))
    return new
