"""Architectures by name; each returns a BlockNetwork, and none knows a rule."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from bpfree.architectures import cnn as _cnn
from bpfree.architectures import invertible as _invertible
from bpfree.architectures import resnet as _resnet
from bpfree.architectures import vgg as _vgg
from bpfree.architectures import vit as _vit
from bpfree.architectures.mlp import mlp, widths
from bpfree.errors import UserError
from bpfree.network import BlockNetwork

__all__ = ["check", "get", "mlp", "names", "refusal"]

_FAMILIES = {
    **{name: (_vgg.vgg, _vgg.choose) for name in _vgg.STAGES},
    **{name: (_resnet.resnet, _resnet.choose) for name in _resnet.STAGES},
    "vit": (_vit.vit, _vit.choose),
}
_INVERTIBLE = ("square:", "tower:")
_PERCEPTRONS = ["500", "500-1000-500", "500x5"]


def names() -> list[str]:
    """What `--arch` understands, as patterns."""
    return [*_PERCEPTRONS, _cnn.EXAMPLE, *_FAMILIES, *_invertible.EXAMPLES]


def get(arch: str, input_shape: Sequence[int], outputs: int, **options) -> BlockNetwork:
    """The network of that name.

    Args:
        arch: `"500-1000-500"` (an `mlp` with these hidden widths), `"500x5"` (five of 500),
            `"CONV_32_5_1_2_FC_1000_FC_10"` (see `cnn.topology`), or `vgg6b vgg8b vgg11b vgg11 vgg13
            vgg16 resnet18 resnet34 resnet50 vit`, with options after a colon: `"vgg8b:width=0.25"`;
            `"square:4"` or `"tower:784-500-200"` (see `invertible.invertible`).
        input_shape: of one example, without the batch, e.g. `(28, 28, 1)`.
        outputs: D, the number of classes or of reconstructed values.
        **options: `activation`, `batch_norm`, `dropout`, `use_bias`, `fw_init`, `problem_type`,
            `seed`; see `bpfree.architectures.parts.Parts`.

    Raises:
        UserError: if the string names no architecture, does not fit the inputs, or an option is out
            of range.
    """
    check(arch)
    if arch[0].isdigit():
        return mlp(arch, input_shape, outputs, **options)
    if arch.startswith("CONV_"):
        return _cnn.cnn(arch, input_shape, outputs, **options)
    if arch.startswith(_INVERTIBLE):
        return _invertible.invertible(arch, input_shape, outputs, **options)
    make, _ = _FAMILIES[arch.partition(":")[0]]
    return make(arch, input_shape, outputs, **options)


def refusal(arch: str, batch_norm: bool) -> str | None:
    """Why an architecture cannot have batch normalisation, in a sentence; None where it can."""
    return _vit.NORMALISED if batch_norm and arch.partition(":")[0] == "vit" else None


def check(arch: str) -> None:
    """Raises a UserError unless the string names an architecture; builds nothing."""
    name = arch.partition(":")[0]
    if arch[:1].isdigit():
        widths(arch)
    elif arch.startswith("CONV_"):
        _cnn.topology(arch)
    elif arch.startswith(_INVERTIBLE):
        _invertible.hidden(arch)
    elif name in _FAMILIES:
        _, choose = _FAMILIES[name]
        choose(arch)
    else:
        near = difflib.get_close_matches(name, _FAMILIES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"write e.g. {', '.join(names())}."
        raise UserError(f"Unknown architecture {arch!r}: {hint}")
