"""nHSIC: how strongly two views of the same examples depend on each other, by kernels."""

from __future__ import annotations

import math

from keras import ops

from bpfree.precision import width


def nhsic(x, z, sigma: float = 5.0, epsilon: float = 1e-5):
    """nHSIC(X; Z) = tr(R_X R_Z),  R = K̃ (K̃ + ε m I)⁻¹,  K̃ = H K H,  H = I − 11ᵀ/m.

    K is the Gaussian kernel below. The value lies between 0 and m − 1 (each R has eigenvalues
    λ/(λ + ε m) < 1) and grows with m: compare values of one m only. Its gradient is finite, also
    where examples coincide. In float32 it holds to about 1e-4 while centred examples stay below 30 in
    root mean square; far above 100, rounding errors of the distances outgrow ε, and it may be NaN.

    Args:
        x: m examples, shape (m, …); all that follows the first axis is one vector.
        z: another view of the same examples, in the same order, shape (m, …).
        sigma: width of the kernels, > 0.
        epsilon: ε > 0.

    Returns:
        A scalar, float32 or as `bpfree.precision.width` says.

    Source: Ma, Lewis & Kleijn 2020, https://arxiv.org/abs/1908.01580, with the kernel of
    Sakamoto & Sato 2024, https://arxiv.org/abs/2402.09050.
    """
    return ops.sum(view(x, sigma, epsilon) * view(z, sigma, epsilon))


def view(x, sigma: float = 5.0, epsilon: float = 1e-5):
    """R_X, shape (m, m), of examples (m, …): what `nhsic` needs of one side, Σ R_X ∘ R_Z."""
    # K − 11ᵀ has the same K̃ and keeps the digits that K, near 1, has no room for.
    return regularised(_gaussian_less_one(x, sigma), epsilon)


def nhsic_of_kernels(kernel_x, kernel_z, epsilon: float = 1e-5):
    """nHSIC of two views whose kernel matrices are given, centred or not.

    Args:
        kernel_x, kernel_z: symmetric and positive semidefinite, shape (m, m).
        epsilon: ε > 0.
    """
    return ops.sum(regularised(kernel_x, epsilon) * regularised(kernel_z, epsilon))


def gaussian_kernel(x, sigma: float = 5.0):
    """exp(−‖x_i − x_j‖² / (2 σ² d)), shape (m, m), for examples of d numbers, shape (m, …)."""
    return 1 + _gaussian_less_one(x, sigma)


def linear_kernel(x):
    """⟨x_i, x_j⟩, shape (m, m), for examples of shape (m, …)."""
    x = _flat(x)
    return ops.matmul(x, ops.transpose(x))


def regularised(kernel, epsilon: float = 1e-5):
    """R = K̃ (K̃ + ε m I)⁻¹ of a kernel matrix (m, m), by Cholesky's factors."""
    kernel = ops.cast(kernel, width())
    m = ops.shape(kernel)[0]
    rows = ops.mean(kernel, axis=0)
    centred = kernel - rows[:, None] - rows[None, :] + ops.mean(rows)
    factor = ops.cholesky(centred + epsilon * ops.cast(m, width()) * ops.eye(m, dtype=width()))
    half = ops.solve_triangular(factor, centred, lower=True)
    return ops.solve_triangular(ops.transpose(factor), half, lower=False)


def _gaussian_less_one(x, sigma: float):
    x = _flat(x)
    # Far from the origin the differences would drown in the norms' rounding errors.
    gram = linear_kernel(x - ops.mean(x, axis=0))
    # Norms from the same product: a distance to oneself is exactly 0, at any matmul precision.
    norms = ops.diagonal(gram)
    distances = ops.maximum(norms[:, None] + norms[None, :] - 2 * gram, 0.0)
    return ops.expm1(-distances / (2 * sigma**2 * x.shape[1]))


def _flat(x):
    x = ops.cast(x, width())
    return ops.reshape(x, (-1, math.prod(x.shape[1:])))
