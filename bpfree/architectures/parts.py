"""What all architectures are made of: layers that share a network's options, each with its own seed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras

from bpfree.errors import UserError
from bpfree.layers.activations import ACTIVATIONS
from bpfree.layers.dropout import Dropout
from bpfree.network import BlockNetwork
from bpfree.seeds import derive, fresh

Initializer = keras.initializers

FORWARD_INITIALIZERS: dict[str, Callable[[int], Initializer.Initializer]] = {
    "orthogonal": lambda seed: Initializer.Orthogonal(seed=seed),
    "lecun": lambda seed: Initializer.LecunNormal(seed=seed),
    "glorot": lambda seed: Initializer.GlorotNormal(seed=seed),
    "he": lambda seed: Initializer.HeNormal(seed=seed),
    "uniform": lambda seed: Initializer.VarianceScaling(1 / 3, "fan_in", "uniform", seed),
    "zeros": lambda seed: Initializer.Zeros(),
    # The rule overwrites all but the first kernel once its feedback exists.
    "aligned": lambda seed: Initializer.Orthogonal(seed=seed),
}
"""Forward initialisers by their command-line name, from a seed."""

_NUMBERS = {
    int: (r"[0-9]+", "a positive whole number"),
    float: (r"[0-9]*\.?[0-9]+", "a positive number in plain decimals, like 0.25"),
}
"""How an architecture's option is written, by its default's type."""


@dataclass(frozen=True)
class Parts:
    """The options of a network, and its layers.

    Dropout stands at a layer's input, so it never touches the signal that the layer below learns
    from; the network's own input is not dropped. A layer in front of BN has no bias, which BN would
    cancel. Every kernel and every mask has a seed of its own, derived from its path.

    Attributes:
        activation: `tanh relu swish lrelu sigmoid elu step linear`; `lrelu` is Keras's, of slope 0.2.
        batch_norm: whether pre-activations are normalised (Ioffe & Szegedy 2015).
        bn_momentum: of BN's moving mean and variance, in (0, 1): the weight of their last value.
        dropout: rate in [0, 1).
        use_bias: whether layers have one.
        fw_init: `orthogonal` (gain 1), `lecun glorot he` (normal), `uniform` (±1/√n of n values that
            are added up: PyTorch's default), `zeros`, or `aligned` (perceptrons only: the rule sets
            K_l = F_{l−1} F_lᵀ and the head's K = F_L; only for rules with feedback matrices). The
            head's kernel is of the same kind.
        problem_type: `classification` or `reconstruction`.
        seed: the run's seed. None takes one from Python's random state, which
            `keras.utils.set_random_seed` sets.

    Raises:
        UserError: if a name or a number is none of these.
    """

    activation: str = "tanh"
    batch_norm: bool = False
    bn_momentum: float = 0.99
    dropout: float = 0.0
    use_bias: bool = True
    fw_init: str = "orthogonal"
    problem_type: str = "classification"
    seed: int | None = None

    def __post_init__(self):
        _check("activation", self.activation, ACTIVATIONS)
        _check("forward initialiser", self.fw_init, FORWARD_INITIALIZERS)
        _check("problem type", self.problem_type, ("classification", "reconstruction"))
        _check_momentum(self.bn_momentum)
        if self.seed is None:
            object.__setattr__(self, "seed", fresh())

    def kernel(self, *path: str | int) -> Initializer.Initializer:
        """The initialiser of the kernel at this path."""
        return FORWARD_INITIALIZERS[self.fw_init](derive(self.seed, "forward", *path, "kernel"))

    def dense(self, units: int, *path: str | int, normed: bool = False) -> keras.layers.Dense:
        """A Dense layer; `normed` if normalisation follows, as batch norm does where asked for."""
        bias = self.use_bias and not (normed and self.batch_norm)
        return keras.layers.Dense(units, use_bias=bias, kernel_initializer=self.kernel(*path))

    def convolution(
        self, channels: int, size: int, *path: str | int, strides: int = 1, padding: str = "same"
    ) -> keras.layers.Conv2D:
        """A convolution in front of normalisation, if there is any."""
        return keras.layers.Conv2D(
            *(channels, size, strides, padding),
            use_bias=self.use_bias and not self.batch_norm,
            kernel_initializer=self.kernel(*path),
        )

    def norm(self) -> list[keras.layers.Layer]:
        """Batch normalisation, where asked for."""
        norm = keras.layers.BatchNormalization
        return [norm(momentum=self.bn_momentum)] if self.batch_norm else []

    def activate(self) -> keras.layers.Layer:
        """The activation, as a layer."""
        return keras.layers.Activation(ACTIVATIONS[self.activation])

    def drop(self, *path: str | int) -> list[keras.layers.Layer]:
        """Dropout, where asked for."""
        return [Dropout(self.dropout, derive(self.seed, "dropout", *path))] if self.dropout else []

    def network(
        self, blocks: Sequence, head: Sequence, input_shape: Sequence[int], name: str
    ) -> BlockNetwork:
        """The built network of these blocks (lists of layers, or layers) and the head's layers."""
        network = BlockNetwork(
            [
                keras.Sequential(block, name=f"block_{index + 1}")
                if isinstance(block, list)
                else block
                for index, block in enumerate(blocks)
            ],
            keras.Sequential(head, name="head"),
            problem_type=self.problem_type,
            activation=self.activation,
            fw_init=self.fw_init,
            name=name,
        )
        network.build((None, *input_shape))
        return network

    def not_aligned(self, arch: str) -> None:
        """Raises a UserError if weights were to be aligned, which is for perceptrons."""
        if self.fw_init == "aligned":
            raise UserError(
                f"fw_init 'aligned' sets kernels that are matrices, and {arch!r} has others: choose "
                "another fw_init, or a perceptron."
            )


def images(arch: str, input_shape: Sequence[int], least: int = 1) -> None:
    """Raises a UserError unless the inputs are images, channels last, of so many pixels each way."""
    if keras.config.image_data_format() != "channels_last":
        raise UserError(
            f"Architecture {arch!r} takes images (height, width, channels), and Keras's image_data_format "
            "is channels_first: set it to channels_last, e.g. in keras.json."
        )
    if len(input_shape) != 3:
        raise UserError(
            f"Architecture {arch!r} takes images (height, width, channels), received inputs of shape "
            f"{tuple(input_shape)}: use a perceptron, e.g. 500."
        )
    if min(input_shape[:2]) < least:
        raise UserError(
            f"Architecture {arch!r} needs images of at least {least} by {least} pixels, received "
            f"{input_shape[0]} by {input_shape[1]}: use one that halves them less often."
        )


def options(arch: str, defaults: dict[str, float]) -> dict[str, float]:
    """The values after the colon of `name:option=value,option=value`, and the defaults of the others.

    Raises:
        UserError: for an unknown option, one that is given twice, or a value that is no positive number
            of the default's type.
    """
    name, colon, text = arch.partition(":")
    known = ", ".join(f"{option}={default}" for option, default in defaults.items())
    found: dict[str, float] = {}
    for part in text.split(",") if colon else []:
        option, _, value = part.partition("=")
        if option not in defaults:
            raise UserError(
                f"Architecture {arch!r} has no option {option!r}: write {name}:option=value; the options "
                f"are {known}."
            )
        if option in found:
            raise UserError(f"{option} is given twice in {arch!r}: give it once.")
        kind = type(defaults[option])
        pattern, wanted = _NUMBERS[kind]
        if not re.fullmatch(pattern, value) or not float(value) > 0:
            raise UserError(
                f"{option} of {arch!r} must be {wanted}, received {value!r}: the default is "
                f"{defaults[option]}."
            )
        found[option] = kind(value)
    if "bn_momentum" in found:
        _check_momentum(found["bn_momentum"])
    return {**defaults, **found}


def _check_momentum(momentum: float) -> None:
    if not 0 < momentum < 1:
        raise UserError(
            f"bn_momentum must lie between 0 and 1, received {momentum:g}: Keras's default is 0.99, "
            "PyTorch's 0.9 (which it calls 0.1)."
        )


def _check(what: str, value: str, allowed) -> None:
    if value not in allowed:
        raise UserError(f"Unknown {what} {value!r}: choose one of {', '.join(allowed)}.")
