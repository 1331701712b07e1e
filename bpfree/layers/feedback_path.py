"""FeedbackPath: a learned way back through a block of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import keras
from keras import ops

from bpfree import autodiff
from bpfree.errors import UserError
from bpfree.layers.projection import INITIALIZERS
from bpfree.network import is_activation, is_dropout, layers_of, run
from bpfree.precision import full, width

_SHAPING = ("Flatten", "Reshape", "ZeroPadding1D", "ZeroPadding2D")
_LINEAR = tuple(getattr(keras.layers, name) for name in _SHAPING)


@dataclass(frozen=True)
class Anatomy:
    """A block's layers in groups: `h = tail(body(lead(x)))`.

    Attributes:
        lead: what pools the input; nothing in it learns.
        body: from the kernel (or what flattens or pads in front of it) to the activation.
        tail: what pools afterwards; nothing in it learns.
    """

    body: list
    lead: list = field(default_factory=list)
    tail: list = field(default_factory=list)

    @property
    def owner(self) -> keras.layers.Layer:
        """The layer with the kernel."""
        return next(layer for layer in self.body if _kernels(layer))


def anatomy(block: keras.layers.Layer) -> Anatomy:
    """The groups of a block that is a chain around one Dense layer or convolution.

    Raises:
        UserError: if it is not.
    """
    layers = layers_of(block)
    owners = [index for index, layer in enumerate(layers) if _kernels(layer)]
    single = len(owners) == 1 and isinstance(
        getattr(layers[owners[0]], "kernel", None), keras.Variable
    )
    first = owners[0] if single else len(layers)
    if not single or any(la.weights for la in layers[:first] if not is_dropout(la)):
        raise UserError(
            f"A feedback path leads back through one Dense layer or convolution, and {block.name!r} "
            f"({type(block).__name__}) is no chain around one: use a perceptron, cnn or vgg."
        )
    start, end = first, first + 1
    while start and (isinstance(layers[start - 1], _LINEAR) or is_dropout(layers[start - 1])):
        start -= 1
    for index, layer in enumerate(layers[end:], end):
        if is_activation(layer) or (layer.weights and not is_dropout(layer)):
            end = index + 1
    return Anatomy(layers[start:end], layers[:start], layers[end:])


class FeedbackPath(keras.layers.Layer):
    """From what a block put out, v, back to what its kernel was given:

        G(v) = J_Bᵀ act(un-pool(v)) + c

    J_B is the block's matrix or convolution, flattening and padding in front of it included, with B, of
    the kernel's shape, in the place of the kernel; the activation is the block's own. What pools after
    it is undone where the forward pass found its maxima. All transposes are gradients, so they fit the
    layer whatever its strides and padding. Dropout and normalisation have no counterpart: B learns their
    scale. `lead_back` goes on through what pools in front of the kernel. Computes in full precision.

    Args:
        block: the block's anatomy, built.
        bw_init: initialiser of B, or None for the kernel's present value.
        seed: of B. c starts at 0.

    Source: Ernoult et al. 2022, https://arxiv.org/abs/2201.13415, section 3, and the authors' published code.
    """

    def __init__(self, block: Anatomy, bw_init: str | None, seed: int, **kwargs):
        super().__init__(**{"trainable": False, "dtype": width(), **kwargs})
        present = block.owner.kernel
        if bw_init is None:
            initializer = lambda shape, dtype=None: ops.convert_to_tensor(present, dtype)  # noqa: E731
        else:
            initializer = INITIALIZERS[bw_init](math.prod(present.shape[:-1]), seed)
        self.linear = [
            _copied(layer, kernel_initializer=initializer, use_bias=False, activation=None)
            for layer in block.body[: block.body.index(block.owner) + 1]
            if not is_dropout(layer)
        ]
        activations = [
            keras.layers.Activation(getattr(block.owner, "activation", None)),
            *filter(is_activation, block.body),
        ]
        self.activation = [_copied(layer) for layer in activations if not _is_linear(layer)]
        self.lead, self.tail = (
            [_copied(layer) for layer in group if not is_dropout(layer)]
            for group in (block.lead, block.tail)
        )

    def build(self, input_shape):
        """Creates B, and c: one value per channel in front of a convolution, else one per input.

        Args:
            input_shape: of what the kernel's layer group is given, with the batch axis.
        """
        shape = input_shape
        for layer in self.linear:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        shape = input_shape[-1:] if len(self.kernel.shape) > 2 else input_shape[1:]
        self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros", trainable=False)

    @property
    def kernel(self) -> keras.Variable:
        """B, of the shape of the block's kernel."""
        return self.linear[-1].kernel

    def call(self, v, u, p):
        """G(v), in the shape of u.

        Args:
            v: in the shape of the block's output.
            u: what the kernel's layer group was given in the forward pass.
            p: what the layers that pool after it were given.
        """
        a = run(self.activation, transposed(self.tail, v, p))
        return transposed(self.linear, a, u) + self.bias

    def difference(self, v, d, u, p):
        """G(v + d) − G(v), where d may be so small that G(v + d) would lose it."""
        d = transposed(self.tail, d, p)
        if self.activation:
            v = transposed(self.tail, v, p)
            d = run(self.activation, v + d) - run(self.activation, v)
        return transposed(self.linear, d, u)

    def lead_back(self, d, x):
        """What a difference d in u is in the block's input x: back through what pools in front."""
        return transposed(self.lead, d, x)


def transposed(layers: list, v, x):
    """Jᵀ v of layers at x, in full precision, that is ∂/∂x Σ v · layers(x); v itself of no layers."""
    if not layers:
        return v
    return autodiff.gradient(lambda x: ops.sum(v * run(layers, x)), full(x))


def _is_linear(layer) -> bool:
    return getattr(layer, "activation", None) is keras.activations.linear


def _kernels(layer) -> list:
    return [v for v in layer.trainable_variables if "kernel" in v.name]


def _copied(layer, **options):
    """A layer of the same configuration but for the options it has; without training or regularisers."""
    config = layer.get_config()
    config |= {name: value for name, value in options.items() if name in config}
    config |= dict.fromkeys(name for name in config if name.endswith("_regularizer"))
    return type(layer).from_config(
        {**config, "trainable": False, "dtype": width(), "name": layer.name}
    )
