"""A branch that all examples of a batch take together, under `vmap` too."""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir


def all_agree(yes: jax.Array) -> jax.Array:
    """A boolean; under `vmap` whether it holds for all, so that a branch on it stays a branch and not both for each."""
    return _all_agree_p.bind(yes)


def _agreed_in_batch(args, axes):
    return all_agree(jnp.all(args[0], axes[0])), None


_all_agree_p = Primitive("all_agree")
_all_agree_p.def_impl(lambda yes: yes)
_all_agree_p.def_abstract_eval(lambda yes: yes)
batching.primitive_batchers[_all_agree_p] = _agreed_in_batch
mlir.register_lowering(_all_agree_p, lambda _, yes: [yes])
