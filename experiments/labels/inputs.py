"""What the networks see of a row: tf-idf or standardised numbers, and maybe what other rows' labels say of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from scipy.sparse import csr_array


class Inputs(NamedTuple):
    """What the networks see of x (N, D): tf-idf for rows of words (0 or 1), standardised numbers else.

    (x - shift) scale, and for words brought to length 8; idf_j = log(N / (1 + number of training rows with word j)).
    With the labels of the training rows each row also sees, behind its own numbers, what OTHER training rows say of
    every label, (N, 2 L): the votes of its nearest rows, and ridge regression. Its own labels play no part, but for
    their share 1 / N in the mean that all labels are centred by.
    """

    shift: np.ndarray
    scale: np.ndarray
    words: np.ndarray
    x: np.ndarray | None = None  # the training rows whose labels others see, (N, D)
    y: np.ndarray | None = None

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray | None = None) -> "Inputs":
        """Fitted to training rows; with `y` their labels are seen by others."""
        words = bool(np.all((x == 0) | (x == 1)))
        if words:
            shift, scale = np.zeros(x.shape[1]), np.log(len(x) / (1 + np.sum(x > 0, axis=0)))
        else:
            shift, scale = np.mean(x, axis=0), 1 / np.maximum(np.std(x, axis=0), 1e-6)
        kept = None if y is None else x
        return cls(shift.astype(np.float32), scale.astype(np.float32), np.asarray(words), kept, y)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Of rows that are not training rows, (N, D) -> (N, D) or (N, D + 2 L); a row without words stays 0."""
        own = self.own(x)
        if self.x is None:
            return own
        known, near = unit(self.own(self.x)), unit(own)
        seen = [own, self._votes(near @ known.T), 4 * near @ self._ridge(known)]
        return np.concatenate(seen, axis=1).astype(np.float32)

    def of_training_rows(self) -> np.ndarray:
        """Of the training rows themselves, each as if it were not one: (N, D) or (N, D + 2 L)."""
        if self.x is None or self.y is None:
            raise ValueError("inputs of rows alone keep no training rows: call them with the rows")
        own = self.own(self.x)
        known, centred = unit(own), self.y - self.y.mean(axis=0)
        cosine = known @ known.T
        # Leaving row i out changes its residual r_i to r_i / (1 - h_i), h the diagonal of the hat matrix.
        leverage = np.einsum("nd,dn->n", known, np.linalg.solve(_gram(known), known.T))
        residual = (centred - known @ self._ridge(known)) / (1 - leverage)[:, None]
        np.fill_diagonal(cosine, -1)
        seen = [own, self._votes(cosine), 4 * (centred - residual)]
        return np.concatenate(seen, axis=1).astype(np.float32)

    def own(self, x: np.ndarray) -> np.ndarray:
        """What a row says by itself, (N, D)."""
        x = (x - self.shift) * self.scale
        return 8 * unit(x) if self.words else x

    def _ridge(self, known):
        """Weights (D, L) of y less its mean, by ridge regression of strength 1 on rows of unit length."""
        assert self.y is not None
        return np.linalg.solve(_gram(known), known.T @ (self.y - self.y.mean(axis=0)))

    def _votes(self, cosine, nearest=30):
        """(log(v + 0.02) - log 0.02) / 2, v the labels' shares among the nearest rows, weighted by cosine cubed."""
        assert self.y is not None
        found = np.argpartition(-cosine, nearest, axis=1)[:, :nearest]
        weight = np.maximum(np.take_along_axis(cosine, found, axis=1), 0) ** 3
        votes = np.einsum("nk,nkl->nl", weight, self.y[found])
        votes /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-6)
        return ((np.log(votes + 0.02) - np.log(0.02)) / 2).astype(np.float32)


def compressed(x: np.ndarray) -> Any:
    """A sparse matrix (CSR) where less than 15 % of the numbers are not 0, which is then faster; else x."""
    return csr_array(x) if np.count_nonzero(x) < 0.15 * x.size else x


def unit(x: np.ndarray) -> np.ndarray:
    """The rows brought to length 1; a row of zeros stays."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def _gram(x):
    return x.T @ x + np.eye(x.shape[1], dtype=x.dtype)


class NetworkWithOthers(nn.Module):
    """A feature network for inputs (B, D + 2 L): words, then two numbers for each label from other rows' labels.

    Words alone are dropped out. All inputs enter the hidden layer, and s = W h + b + a_1 F_1 + a_2 F_2, with learned
    scalars a: the two score the labels already.
    """

    n_labels: int
    width: int
    input_dropout: float = 0.0
    dropout: float = 0.0

    def setup(self):
        """Names the layers as FeatureNetwork does, and the scalars "others"."""
        self.layer = nn.Dense(self.width, name="hidden_0")
        self.last = nn.Dense(self.n_labels, name="output")
        self.others = self.param("others", nn.initializers.constant(0.5), (2,))
        self.drop_input, self.drop = nn.Dropout(self.input_dropout), nn.Dropout(self.dropout)

    def hidden(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The hidden layer, and behind it F_1 and F_2: (B, D + 2 L) -> (B, H + 2 L)."""
        words, others = jnp.split(x, [x.shape[-1] - 2 * self.n_labels], axis=-1)
        words = self.drop_input(words, deterministic=not train)
        h = nn.relu(self.layer(jnp.concatenate([words, others], axis=-1)))
        return jnp.concatenate([self.drop(h, deterministic=not train), others], axis=-1)

    def output(self, h: jax.Array) -> jax.Array:
        """The logits s, (B, H + 2 L) -> (B, L)."""
        h, others = jnp.split(h, [self.width], axis=-1)
        both = others.reshape(*others.shape[:-1], 2, self.n_labels)
        return self.last(h) + jnp.tensordot(both, self.others, [[-2], [0]])

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The logits, (B, D + 2 L) -> (B, L)."""
        return self.output(self.hidden(x, train))
