"""ProjectionRule: the base of rules that project with fixed random feedback matrices."""

from __future__ import annotations

import keras
from keras import ops

from bpfree.errors import UserError
from bpfree.layers.projection import RandomProjection, check_initializer
from bpfree.network import kernels
from bpfree.precision import width
from bpfree.rules.rule import Rule
from bpfree.seeds import derive, fresh


class ProjectionRule(Rule):
    """Owns a fixed random matrix F_l (n_l, D) per block and a scale s for the blocks' signals.

    Args:
        bw_init: feedback initialiser: `ortho lecun glorot he uniform`; see `RandomProjection`.
        signal_scale: s, any float: multiplies every block's surrogate. Under Adam it changes nothing
            but the weight of ε and of decay; it matters under SGD.
        pool: whether feature maps are averaged over their positions before they are projected; F_l is
            then (channels, D), else it has a row for every value.

    Raises:
        UserError: for an unknown initialiser.
    """

    projects = True
    as_weights = ("bw_init", "signal_scale")

    def __init__(
        self, bw_init: str = "ortho", signal_scale: float = 1.0, pool: bool = False, **kwargs
    ):
        super().__init__(**kwargs)
        check_initializer(bw_init)
        self.bw_init = bw_init
        self.signal_scale = signal_scale
        self.pool = pool

    def build(self, network, input_shape, outputs: int) -> None:
        seed = fresh() if self.seed is None else self.seed
        self.projections = []
        for index, shape in enumerate(network.hidden_shapes):
            projection = RandomProjection(
                *(outputs, self.bw_init, derive(seed, "feedback", index), self.pool),
                name=f"feedback_{index + 1}",
            )
            projection.build(shape)
            self.projections.append(projection)
        self.scale = self.add_weight(
            name="signal_scale",
            shape=(),
            initializer=keras.initializers.Constant(self.signal_scale),
            trainable=False,
            dtype=width(),
        )

    @property
    def feedback(self) -> list:
        """`[F_1, …, F_L]`: one non-trainable weight (n_l, D) per block."""
        return [projection.kernel for projection in self.projections]

    def send(self, signals: list, activations: list) -> list:
        """Surrogates that move each h_l against its signal: `s Σ sg(signal_l F_lᵀ) · h_l`.

        Args:
            signals: per block, shape (N, D), with weights and 1/N in it.
            activations: `[h_1, …, h_L]`.
        """
        return [
            self.sent(signal, h, index)
            for index, (signal, h) in enumerate(zip(signals, activations, strict=True))
        ]

    def sent(self, signal, h, index: int):
        """The surrogate of one block: `s Σ sg(signal F_lᵀ) · h_l`, added up as `s Σ sg(signal) · h_l F_l`."""
        return self.scale * ops.sum(ops.stop_gradient(signal) * self.projections[index](h))

    def align(self, network) -> None:
        """Sets K_l = F_{l−1} F_lᵀ for l ≥ 2 and the head's K = F_L; K_1 stays as it is.

        Hidden kernels then have rank D at most. Source: Refinetti et al. 2021,
        https://arxiv.org/abs/2011.12428, section 3 (weight alignment).
        """
        before = None
        for block, feedback in zip(network.blocks, self.feedback, strict=True):
            if before is not None:
                kernel(block).assign(ops.matmul(before, ops.transpose(feedback)))
            before = feedback
        kernel(network.head).assign(before)


def kernel(layer) -> keras.Variable:
    """The one trainable weight matrix in a layer, or in a layer's sublayers.

    Raises:
        UserError: if there is none, or another one.
    """
    found = kernels(layer)
    if len(found) != 1:
        raise UserError(
            f"fw_init 'aligned' sets one weight matrix in every block and in the head, and {layer.name!r} "
            f"has {len(found)}: choose another fw_init."
        )
    return found[0]
