"""BlockNetwork: a chain of blocks and a head, cut between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import numpy as np
from keras import ops

from bpfree.errors import UserError
from bpfree.layers.dropout import Dropout

_ACTIVATION_LAYERS = tuple(
    getattr(keras.layers, name) for name in ("Activation", "ReLU", "LeakyReLU", "ELU")
)
_NAMES = {
    keras.layers.Softmax: "softmax",
    keras.layers.ReLU: "relu",
    keras.layers.LeakyReLU: "leaky_relu",
    keras.layers.ELU: "elu",
    keras.layers.PReLU: "prelu",
}
_OUTPUT_ACTIVATIONS = {"softmax", "sigmoid"}


@keras.saving.register_keras_serializable("bpfree")
class BlockNetwork(keras.Model):
    """`outputs = head(block_L(… block_1(x)))`: the network that every rule trains.

    A block is the unit that learns from one surrogate; inside it gradients flow, between blocks
    they are stopped when a rule asks for it. The head returns pre-activations (logits).

    Args:
        blocks: the hidden layers, in order; each any Keras layer.
        head: one layer that maps the last block's activation to the outputs, shape (N, D).
        problem_type: `"classification"` or `"reconstruction"`: what the outputs are meant for.
        activation: the hidden activation's name, or None if unknown; rules check it.
        fw_init: the forward initialiser's name, or None if unknown; `aligned` asks the rule to set
            the forward weights from its feedback.

    Raises:
        UserError: if a Keras mask may leave a block, see `_check_masks`.
    """

    def __init__(
        self,
        blocks: Sequence[keras.layers.Layer],
        head: keras.layers.Layer,
        problem_type: str = "classification",
        activation: str | None = None,
        fw_init: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.blocks = list(blocks)
        _check_masks(self.blocks)
        self.head = head
        self.problem_type = problem_type
        self.activation = activation
        self.fw_init = fw_init

    def build(self, input_shape):
        """Builds every block that is not built yet, and records the shapes of their activations."""
        shape = (None, *input_shape[1:])
        self.hidden_shapes = []
        for block in self.blocks:
            _build(block, shape)
            shape = block.compute_output_shape(shape)
            self.hidden_shapes.append(tuple(shape))
        _build(self.head, shape)

    @property
    def outputs(self) -> int:
        """D, the number of outputs; of a built network."""
        return self.head.compute_output_shape(self.hidden_shapes[-1])[-1]

    def compute_output_shape(self, input_shape):
        shape = input_shape
        for layer in [*self.blocks, self.head]:
            shape = layer.compute_output_shape(shape)
        return shape

    def trace(
        self, x, training: bool | Sequence[bool] = False, cut: bool | Sequence[bool] = True
    ) -> list:
        """All activations of one forward pass.

        Args:
            x: inputs, shape (N, …).
            training: whether dropout and batch statistics are in training mode; one for all, or one
                for each block and the head.
            cut: whether gradients stop at every block's output, and so at the next one's (and the
                head's) input; one for all, or one for each block.

        Returns:
            `[h_1, …, h_L, outputs]`; the outputs are pre-activations (N, D) in Keras's floatx,
            which is float32 unless set otherwise.
        """
        if isinstance(training, bool):
            training = [training] * (len(self.blocks) + 1)
        cuts = [cut] * len(self.blocks) if isinstance(cut, bool) else cut
        activations = []
        for block, mode, stops in zip(self.blocks, training, cuts, strict=False):
            activation = block(x, training=mode)
            activations.append(activation)
            x = ops.stop_gradient(activation) if stops else activation
        outputs = self.head(x, training=training[-1])
        return [*activations, ops.cast(outputs, keras.config.floatx())]

    def call(self, inputs, training=False):
        return self.trace(inputs, training=training, cut=False)[-1]

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "blocks": [serialize(block) for block in self.blocks],
            "head": serialize(self.head),
            "problem_type": self.problem_type,
            "activation": self.activation,
            "fw_init": self.fw_init,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        deserialize = keras.saving.deserialize_keras_object
        config["blocks"] = [deserialize(block, custom_objects) for block in config["blocks"]]
        config["head"] = deserialize(config["head"], custom_objects)
        return cls(**config)

    @classmethod
    def from_sequential(cls, model: keras.Sequential, **kwargs) -> BlockNetwork:
        """A user's own `keras.Sequential` as a BlockNetwork, sharing its layers and weights.

        It is cut before every layer that owns a kernel, itself or in a layer within; what stands in
        front of the first such layer belongs to the first block, and the last such layer begins the
        head. A Sequential within the model counts as its layers; any other composite layer is never cut
        inside. A weight matrix that a layer of your own creates is known once the model is built.

        A softmax or sigmoid at the end is taken off, since outputs are logits here. Where it is built
        into the last layer, as in `Dense(10, activation="softmax")`, the head is a linear copy of that
        layer: training it leaves the model's last layer as it was.

        Args:
            model: a Sequential with at least two layers that own a kernel.
            **kwargs: `problem_type` and what else the constructor takes.

        Raises:
            UserError: if there are fewer than two such layers, the output has an activation other than
                linear, softmax or sigmoid, or one inside a functional model or wrapper, or a Keras mask
                may leave a block.
        """
        if not isinstance(model, keras.Sequential):
            raise UserError(
                f"from_sequential cuts a keras.Sequential, received a {type(model).__name__}: "
                "pass BlockNetwork(blocks, head) the blocks of another model yourself."
            )
        segments = _segments(_without_output_activation(model))
        if len(segments) < 2:
            raise UserError(
                "A network to be cut needs at least two layers with a kernel (a block and a head), "
                f"received {len(segments)} in {model.name!r}: add a hidden layer."
            )
        *blocks, head = [part[0] if len(part) == 1 else keras.Sequential(part) for part in segments]
        network = cls(blocks, head, **{"activation": _common_activation(segments[:-1]), **kwargs})
        if model.built:
            network.build(model.input_shape)
        return network


def walk(layer: keras.layers.Layer, x, call: Callable):
    """Runs a layer through its parts: what `call(part, x)` returns goes into the next part.

    The parts are those of a Sequential, and of a layer that has a method `walk(x, call)` of its own,
    all the way down; any other layer is a part itself.

    Args:
        layer: e.g. a network's block.
        x: its input.
        call: a function `(part, x) -> output`.
    """

    def onward(part, x):
        return walk(part, x, call)

    if isinstance(layer, keras.Sequential):
        for part in layer.layers:
            x = onward(part, x)
        return x
    return layer.walk(x, onward) if hasattr(layer, "walk") else call(layer, x)


def pre_activation(block: keras.layers.Layer, x, training: bool = False) -> tuple:
    """A block's output and what it was before the activation that ends the block.

    Args:
        block: a Sequential that ends in an `Activation` layer; of another the output stands for both.
        x: its input.
        training: passed on.

    Returns:
        `(z, h)`.
    """
    layers = block.layers if isinstance(block, keras.Sequential) else [block]
    if len(layers) < 2 or not isinstance(layers[-1], keras.layers.Activation):
        h = block(x, training=training)
        return h, h
    for layer in layers[:-1]:
        x = layer(x, training=training)
    return x, layers[-1](x)


def layers_of(block: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers of a block that is a Sequential, else the block as the only one."""
    return list(block.layers) if isinstance(block, keras.Sequential) else [block]


def around_activation(block: keras.layers.Layer) -> tuple[list, list, list]:
    """A block's layers before its activation layer, that layer, and those after it.

    The activation is empty if there is no such layer, and so is what comes after it: the block's output
    then stands for its pre-activation.

    Raises:
        UserError: if there is none because it is built into a layer with a kernel.
    """
    layers = layers_of(block)
    for index, layer in enumerate(layers):
        if is_activation(layer):
            return layers[:index], [layer], layers[index + 1 :]
        if _has_kernel(layer) and _activation_name(layer) not in (None, "linear"):
            raise UserError(
                f"The rule needs pre-activations, and {layer.name!r} has {_activation_name(layer)!r} "
                "built in: add a keras.layers.Activation after it instead."
            )
    return layers, [], []


def is_activation(layer: keras.layers.Layer) -> bool:
    """Whether the layer only applies a function to every value."""
    return isinstance(layer, _ACTIVATION_LAYERS)


def is_dropout(layer: keras.layers.Layer) -> bool:
    """Whether the layer only drops values in training."""
    return isinstance(layer, (Dropout, keras.layers.Dropout))


def kernels(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The trainable weight matrices in a layer: Keras's `kernel`, `recurrent_kernel`, and the like."""
    return [v for v in layer.trainable_variables if v.name.endswith("kernel")]


def within(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """A layer and all layers in it, however deep."""
    yield layer
    for value in vars(layer).values():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, keras.layers.Layer):
                yield from within(part)


def run(layers: Iterable[keras.layers.Layer], x, training: bool = False, dtype: str | None = None):
    """The output of layers, one after the other.

    Args:
        layers: may be none.
        x: the input.
        training: passed on.
        dtype: what they compute in, whatever their policy; that of their policies if None.
    """

    def call(layer, x):
        policy = layer.dtype_policy
        layer.dtype_policy = dtype
        try:
            return layer(x, training=training)
        finally:
            layer.dtype_policy = policy

    for layer in layers:
        x = walk(layer, x, call) if dtype else layer(x, training=training)
    return x


def _build(layer, shape):
    # Keras forbids building a layer twice, and a user's own model may come built.
    if not layer.built:
        layer.build(shape)


def _owns_kernel(layer) -> bool:
    """Whether the layer or one within it trains a weight matrix."""
    return any(map(_has_kernel, within(layer)))


def _has_kernel(layer) -> bool:
    """Whether the layer itself trains a weight matrix; embeddings are none."""
    # Keras's own are asked before building, when no kernel exists yet.
    if hasattr(layer, "kernel_initializer") or hasattr(layer, "depthwise_initializer"):
        return True
    if type(layer).__module__.partition(".")[0] in ("keras", "bpfree"):
        return False
    inner = {id(v) for part in within(layer) if part is not layer for v in part.weights}
    own = [v for v in layer.trainable_weights if id(v) not in inner]
    return any(len(v.shape) >= 2 and v.name != "embeddings" for v in own)


def _expanded(model: keras.Sequential) -> list:
    """The layers of a Sequential, and of those within it."""
    nested = (_expanded(la) if isinstance(la, keras.Sequential) else [la] for la in model.layers)
    return [layer for part in nested for layer in part]


def _check_masks(blocks) -> None:
    """Raises a UserError if a Keras mask may leave a block: a cut between blocks would lose it."""
    for block in blocks:
        if _leaves_mask(block, None) is not None:
            raise UserError(
                f"Keras masks do not pass the cut between blocks, and one may leave block {block.name!r}: "
                "end the masking within the block (return_sequences=False), or do without mask_zero "
                "and Masking."
            )


def _leaves_mask(layer, mask):
    """A mask if the layer's output may have one, else None; `mask` is that of its input, or None."""
    if isinstance(layer, keras.Sequential):
        for part in layer.layers:
            mask = _leaves_mask(part, mask)
        return mask
    some = np.ones((1, 1), bool)
    if layer.supports_masking:
        found = layer.compute_mask(np.ones((1, 1), "float32"), mask)
        return None if found is None else some
    # What layers within put on a tensor stays there, whatever the layer around them supports.
    inner = [part for part in within(layer) if part is not layer]
    makes = (
        isinstance(part, keras.layers.Masking) or getattr(part, "mask_zero", False)
        for part in inner
    )
    return some if inner and (mask is not None or any(makes)) else None


def _segments(layers) -> list[list]:
    """The layers in groups, a new one before each layer that owns a kernel but the first."""
    segments: list[list] = [[]]
    for layer in layers:
        if _owns_kernel(layer) and any(map(_owns_kernel, segments[-1])):
            segments.append([])
        segments[-1].append(layer)
    return segments if any(map(_owns_kernel, segments[-1])) else []


def _activation_name(layer) -> str | None:
    """The activation that ends a layer; of one that wraps another, or a model, that of its last."""
    for kind, name in _NAMES.items():
        if isinstance(layer, kind):
            return name
    last = getattr(layer, "layer", getattr(layer, "forward_layer", None))
    last = layer.operations[-1] if hasattr(layer, "operations") else last  # of a functional model
    function = getattr(layer, "activation", last)
    if isinstance(function, keras.layers.Layer):
        return _activation_name(function)
    return getattr(function, "__name__", None)


def _without_output_activation(model) -> list:
    """The model's layers, expanded, with a final softmax or sigmoid taken off."""
    *layers, last = _expanded(model)
    name = _activation_name(last)
    if name in (None, "linear"):
        return [*layers, last]
    alone = isinstance(last, (keras.layers.Activation, keras.layers.Softmax))
    if name not in _OUTPUT_ACTIVATIONS or not (alone or _has_kernel(last)):
        raise UserError(
            f"The output layer must be linear (a final softmax or sigmoid is taken off, but not from "
            f"inside a composite layer), received activation {name!r} in {last.name!r}: move it into the "
            "loss."
        )
    if alone:
        return layers
    linear = type(last).from_config({**last.get_config(), "activation": "linear"})
    if last.built:
        linear.build_from_config(last.get_build_config())
        linear.set_weights(last.get_weights())
    return [*layers, linear]


def _common_activation(segments) -> str | None:
    """The activation that all blocks share, or None."""
    names = {
        name
        for segment in segments
        for layer in segment
        if (name := _activation_name(layer)) not in (None, "linear")
    }
    return names.pop() if len(names) == 1 else None
