"""A penalty on matrices that are not orthogonal."""

from __future__ import annotations

from keras import ops


def off_diagonal(W, unit_norm: bool = False):
    """`R(W) = Σ_{i≠j} (W Wᵀ)²_ij`: zero where the rows of W are orthogonal, of whatever length.

        ∂R/∂W = 4 O W,   O = W Wᵀ without its diagonal

    A matrix with more rows than columns is held to orthogonal columns: O = Wᵀ W without its diagonal,
    ∂R/∂W = 4 W O.

    Args:
        W: shape (n, m); of a kernel with more axes, the last is m.
        unit_norm: whether rows are held to length 1 as well: O = W Wᵀ − I, diagonal included.

    Returns:
        A scalar of W's type. Its gradient is the closed form: two products of matrices in all.

    Source: Ahmad, van Gerven & Ambrogioni 2020, https://arxiv.org/abs/2006.06438, as in their code;
    Keras's `OrthogonalRegularizer` is another one.
    """
    W = ops.reshape(W, (-1, W.shape[-1]))
    fixed, (rows, columns) = ops.stop_gradient(W), W.shape
    wide = rows <= columns
    gram = (
        ops.matmul(fixed, ops.transpose(fixed)) if wide else ops.matmul(ops.transpose(fixed), fixed)
    )
    identity = ops.eye(gram.shape[0], dtype=W.dtype)
    apart = gram - identity if unit_norm else gram * (1 - identity)
    slope = 4 * (ops.matmul(apart, fixed) if wide else ops.matmul(fixed, apart))
    linear = ops.sum(slope * W)
    return ops.sum(ops.square(apart)) + (linear - ops.stop_gradient(linear))
