"""δ W⁺ for a matrix W that changes a little at every step: four ways to the (pseudo-)inverse."""

from __future__ import annotations

import math

import keras
from keras import ops

from bpfree.errors import UserError

MOST_STEPS = 60  # Newton-Schulz needs about 2 log₂(condition number) + log₂ n from a cold start
WARM_BELOW = 0.5


class Inverse(keras.layers.Layer):
    """δ W⁺ (N, n) of δ (N, m), with W (n, m) and its Moore-Penrose inverse W⁺: W⁻¹ if there is one.

    Args:
        tolerance: of methods that approximate, relative, > 0.

    Attributes:
        residual: a non-trainable scalar, the relative error at the last step as far as the method knows
            it: 0 for those that decompose W.
    """

    def __init__(self, tolerance: float = 1e-3, **kwargs):
        super().__init__(trainable=False, **{**kwargs, "autocast": False})
        self.tolerance = tolerance

    def build(self, shape):
        """Creates what is kept from step to step; `shape` is W's."""
        self.residual = self.add_weight(
            name="residual", shape=(), initializer="zeros", trainable=False
        )

    def refresh(self, W) -> None:
        """Follows W, once a step, before `through`."""

    def through(self, delta, W):
        """δ W⁺."""
        raise NotImplementedError


class Solve(Inverse):
    """By a decomposition of `core(W)` at every step."""

    def through(self, delta, W):
        def divide(rows, A):
            return ops.transpose(ops.linalg.solve(ops.transpose(A), ops.transpose(rows)))

        return applied(divide, delta, W, core(W))


class PseudoInverse(Inverse):
    """By a singular value decomposition of W at every step: also for matrices without full rank."""

    def through(self, delta, W):
        return ops.matmul(delta, ops.linalg.pinv(W))


class NewtonSchulz(Inverse):
    """By products alone: X ≈ A⁻¹, with `A = core(W)`, is kept and follows by X ← X (2I − A X).

    An iteration squares R = I − A X, so ‖R‖ (Frobenius) is at most ‖R‖² after it; `residual` is this
    bound after the step's last, over √n: what a random δ is off by. A step iterates until it is below
    the tolerance. Where ‖R‖ > ½ at its begin (nothing is kept yet, or weights were loaded), X starts
    anew from Aᵀ / (‖A‖₁ ‖A‖_∞), from where every A of full rank converges, to working precision. Where it
    does not, for want of rank or of digits, it stays there, and `residual` is 1.

    Source: Schulz 1933, https://doi.org/10.1002/zamm.19330130111; the start is that of Ben-Israel &
    Cohen 1966, https://doi.org/10.1137/0703035.
    """

    def build(self, shape):
        super().build(shape)
        size = min(shape)
        self.kept = self.add_weight(
            name="inverse", shape=(size, size), initializer="zeros", trainable=False
        )

    def refresh(self, W):
        A = core(W)
        size = A.shape[0]
        identity, root = ops.eye(size, dtype=A.dtype), math.sqrt(size)
        precision = 1e-15 if A.dtype == "float64" else 1e-7
        longest = [ops.max(ops.sum(ops.abs(A), axis=axis)) for axis in (0, 1)]
        start = ops.transpose(A) / positive(longest[0] * longest[1])

        def unfinished(count, X, residual, cold):
            goal = ops.where(cold, precision, self.tolerance * ops.ones_like(residual))
            return ops.logical_and(count < MOST_STEPS, residual > goal)

        def iterate(count, X, residual, cold):
            R = identity - ops.matmul(A, X)
            norm = ops.sqrt(ops.sum(ops.square(R)))
            # Written so that it holds for a NaN.
            lost = ops.logical_and(count == 0, ops.logical_not(norm <= WARM_BELOW))
            X = ops.where(lost, start, X + ops.matmul(X, R))
            residual = ops.where(lost, ops.ones_like(norm), ops.square(norm) / root)
            return count + 1, X, residual, ops.logical_or(cold, lost)

        begin = [0, self.kept.value, ops.ones_like(self.residual.value), False]
        _, X, residual, _ = ops.while_loop(
            unfinished, iterate, [ops.convert_to_tensor(part) for part in begin]
        )
        converged = residual <= WARM_BELOW  # not for a NaN
        self.kept.assign(ops.where(converged, X, start))
        self.residual.assign(ops.where(converged, residual, ops.ones_like(residual)))

    def through(self, delta, W):
        return applied(ops.matmul, delta, W, self.kept.value)


class Transpose(Inverse):
    """By conjugate gradients, with W and Wᵀ alone: least squares of e W = δ, row by row from e = 0.

    A single iteration is exact where W is c times an orthogonal matrix, and gives δ Wᵀ / c². Iterates
    until the slope (δ − e W) Wᵀ of every row is below the tolerance, relative to that at e = 0, or 60
    times: to δ W⁺ for every W, but slowly where W is ill-conditioned, and a small slope is no small error
    there. Nothing is kept; `residual` is the largest slope that is left.

    Source: Hestenes & Stiefel 1952, https://doi.org/10.6028/jres.049.044, section 10.
    """

    def through(self, delta, W):
        T = ops.transpose(W)
        slope = ops.matmul(delta, T)
        first = squares(slope)

        def unfinished(count, e, rest, slope, way):
            left = ops.any(squares(slope) > self.tolerance**2 * first)
            return ops.logical_and(count < MOST_STEPS, left)

        def iterate(count, e, rest, slope, way):
            moved, before = ops.matmul(way, W), squares(slope)
            step = before / positive(squares(moved))
            e, rest = e + step * way, rest - step * moved
            slope = ops.matmul(rest, T)
            return count + 1, e, rest, slope, slope + squares(slope) / positive(before) * way

        begin = [ops.convert_to_tensor(0), ops.zeros_like(slope), delta, slope, slope]
        _, e, _, slope, _ = ops.while_loop(unfinished, iterate, begin)
        self.residual.assign(ops.sqrt(ops.max(squares(slope) / positive(first))))
        return e


METHODS = {
    "newton_schulz": NewtonSchulz,
    "solve": Solve,
    "pinv": PseudoInverse,
    "transpose": Transpose,
}
"""By their names as options."""


def check(method: str, tolerance: float) -> None:
    """Raises a UserError unless the method exists and the tolerance is positive."""
    if method not in METHODS:
        raise UserError(f"Unknown inverse {method!r}: choose one of {', '.join(METHODS)}.")
    if not tolerance > 0:
        raise UserError(f"A tolerance is positive, received {tolerance}: choose e.g. 0.001.")


def core(W):
    """The square matrix whose inverse makes W⁺: W itself, else the smaller of W Wᵀ and Wᵀ W."""
    rows, columns = W.shape
    if rows == columns:
        return W
    T = ops.transpose(W)
    return ops.matmul(W, T) if rows < columns else ops.matmul(T, W)


def applied(divide, delta, W, A):
    """δ W⁺ from `divide(rows, A)`, which is rows A⁻¹ with A = `core(W)`.

    W⁺ is (Wᵀ W)⁻¹ Wᵀ where W has more rows than columns, and Wᵀ (W Wᵀ)⁻¹ where it has fewer. A Gram
    matrix has twice as many digits to lose as W; one refinement, e + (δ − e W) W⁺, brings them back.
    """
    rows, columns = W.shape
    if rows == columns:
        return divide(delta, A)
    T = ops.transpose(W)

    def once(delta):
        if rows > columns:
            return ops.matmul(divide(delta, A), T)
        return divide(ops.matmul(delta, T), A)

    e = once(delta)
    return e + once(delta - ops.matmul(e, W))


def squares(rows):
    return ops.sum(ops.square(rows), axis=1, keepdims=True)


def positive(x):
    return ops.maximum(x, 1e-37)
