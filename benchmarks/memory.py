"""Temporary memory of a compiled training step by the network's depth, rule by rule.

What XLA sets aside for activations and gradients while a step runs; weights, optimizer state and
the batch are not in it. Steps are only compiled, not run.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import compiled
import keras
import numpy as np

MIB = 2**20
_TEMPORARY = re.compile(r"^allocation \d+: size (\d+), preallocated-temp", re.MULTILINE)


def jax_temporary(model: keras.Model, data: tuple) -> int:
    """Bytes set aside for a training step on this batch."""
    return compiled.jax_step(model, data).memory_analysis().temp_size_in_bytes


def tensorflow_temporary(folder: Path) -> Callable[[keras.Model, tuple], int]:
    """`jax_temporary` on TensorFlow, which has no such analysis: read from the compiler's dump.

    Args:
        folder: an empty one for the dump. XLA asks for its name once, before it first compiles.
    """
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={folder} --xla_dump_hlo_as_text "
        "--xla_dump_hlo_module_re=train_step"
    )

    def temporary(model: keras.Model, data: tuple) -> int:
        data = tuple(map(keras.ops.convert_to_tensor, data))
        compiled.tensorflow_step(model).experimental_get_compiler_ir(data)(stage="optimized_hlo")
        (report,) = folder.glob("*buffer-assignment.txt")
        found = sum(map(int, _TEMPORARY.findall(report.read_text())))
        for file in folder.iterdir():
            file.unlink()
        return found

    return temporary


def main() -> None:
    parser = compiled.arguments(__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--width", type=int, default=512, help="inputs, and units of a layer")
    parser.add_argument("--batch_size", type=int, default=4096, help="examples per step")
    options = parser.parse_args()

    data = (
        np.zeros((options.batch_size, options.width), "float32"),
        np.zeros(options.batch_size, "int32"),
    )
    depths = sorted(options.depths)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        jax = keras.backend.backend() == "jax"
        temporary = jax_temporary if jax else tensorflow_temporary(Path(folder))
        for rule in options.rules:
            sizes = []
            for depth in depths:
                model = compiled.learner(rule, options.width, options.width, depth)
                sizes.append(temporary(model, data) / MIB)
            ratios = [f"{size / sizes[0]:.2f}" for size in sizes[1:]]
            rows.append([rule, *(f"{size:.1f}" for size in sizes), *ratios])

    print(compiled.surroundings())
    print(
        f"MiB for {options.width}-{options.width}xdepth-{compiled.OUTPUTS}, tanh, Adam, "
        f"batch {options.batch_size}"
    )
    ratios = [f"{depth} / {depths[0]}" for depth in depths[1:]]
    print(compiled.table(["rule", *(f"depth {depth}" for depth in depths), *ratios], rows))


if __name__ == "__main__":
    main()
