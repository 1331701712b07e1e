"""mlp: the multi-layer perceptron."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

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
    "zeros": lambda seed: Initializer.Zeros(),
    # The rule overwrites all but the first kernel once its feedback exists.
    "aligned": lambda seed: Initializer.Orthogonal(seed=seed),
}
"""Forward initialisers by their command-line name, from a seed."""


def widths(arch: str) -> list[int]:
    """The hidden widths that `"500-1000-500"` or `"500x5"` stand for.

    Raises:
        UserError: if the string is malformed or a width is 0.
    """
    sizes: list[int] = []
    for part in arch.split("-"):
        match = re.fullmatch(r"([1-9]\d*)(?:[x×]([1-9]\d*))?", part)
        if match is None:
            raise UserError(
                f"Malformed architecture {arch!r} at {part!r}: write hidden widths joined by "
                "dashes, e.g. 500-1000-500, or 500x5 for five of them."
            )
        sizes += [int(match[1])] * int(match[2] or 1)
    return sizes


def mlp(
    arch: str,
    input_shape: Sequence[int],
    outputs: int,
    activation: str = "tanh",
    batch_norm: bool = False,
    dropout: float = 0.0,
    use_bias: bool = True,
    fw_init: str = "orthogonal",
    problem_type: str = "classification",
    seed: int | None = None,
) -> BlockNetwork:
    """A perceptron: block = [dropout] → Dense → [BN] → activation, head = [dropout] → Dense.

    Dropout stands at a layer's input, so it never touches the signal that the layer below learns
    from; the network's own input is not dropped. A Dense in front of BN has no bias, which BN would
    cancel.

    Args:
        arch: hidden widths, see `widths`.
        input_shape: of one example; flattened if it has more than one axis.
        outputs: D, the number of outputs.
        activation: `tanh relu swish lrelu sigmoid elu step linear`.
        batch_norm: whether every block normalises its pre-activations (Ioffe & Szegedy 2015).
        dropout: rate in [0, 1).
        use_bias: whether Dense layers have one.
        fw_init: `orthogonal` (gain 1), `lecun glorot he` (normal), `zeros`, or `aligned` (the rule
            sets K_l = F_{l−1} F_lᵀ and the head's K = F_L; only for rules with feedback matrices).
            The head's kernel is of the same kind.
        problem_type: `classification` or `reconstruction`.
        seed: the run's seed; each kernel and each dropout derives its own from it. None takes one
            from Python's random state, which `keras.utils.set_random_seed` sets.

    Raises:
        UserError: if a name or a number is none of these.
    """
    sizes = widths(arch)
    _check("activation", activation, ACTIVATIONS)
    _check("forward initialiser", fw_init, FORWARD_INITIALIZERS)
    _check("problem type", problem_type, ("classification", "reconstruction"))
    seed = fresh() if seed is None else seed

    def dense(index: int, units: int, bias: bool) -> keras.layers.Dense:
        initializer = FORWARD_INITIALIZERS[fw_init](derive(seed, "forward", index, "kernel"))
        return keras.layers.Dense(units, use_bias=bias, kernel_initializer=initializer)

    def dropouts(index: int) -> list[keras.layers.Layer]:
        return [Dropout(dropout, derive(seed, "dropout", index))] if dropout else []

    def block(index: int, units: int) -> keras.Sequential:
        first = [keras.layers.Flatten()] if index == 0 and len(input_shape) > 1 else []
        norm = [keras.layers.BatchNormalization()] if batch_norm else []
        return keras.Sequential(
            [
                *(first or (dropouts(index) if index else [])),
                dense(index, units, use_bias and not batch_norm),
                *norm,
                keras.layers.Activation(ACTIVATIONS[activation]),
            ],
            name=f"block_{index + 1}",
        )

    head = keras.Sequential(
        [*dropouts(len(sizes)), dense(len(sizes), outputs, use_bias)], name="head"
    )
    network = BlockNetwork(
        [block(index, units) for index, units in enumerate(sizes)],
        head,
        problem_type=problem_type,
        activation=activation,
        fw_init=fw_init,
        name="mlp",
    )
    network.build((None, *input_shape))
    return network


def _check(what: str, value: str, allowed) -> None:
    if value not in allowed:
        raise UserError(f"Unknown {what} {value!r}: choose one of {', '.join(allowed)}.")
