"""Time of a step of GAIT-prop against backpropagation, by how the inverses of the weights are found.

On a square network as wide as its input, orthogonal at the start, trained by Adam at the published
learning rate. Contenders take turns as in `step.py`. The residual is the largest of all layers at the
last step.
"""

from __future__ import annotations

import argparse

import compiled
import keras
import numpy as np
import step

import bpfree
from bpfree import architectures, inverses


def learner(rule: str, depth: int) -> bpfree.Learner:
    """A built and compiled learner: `depth` hidden layers and the output layer, all 784 wide."""
    network = architectures.get(f"square:{depth}", (step.INPUTS,), compiled.OUTPUTS, seed=1)
    model = bpfree.Learner(network, rule, seed=1)
    model.compile(
        keras.optimizers.Adam(1e-4),
        loss=compiled.LOSS,
        jit_compile=True,
        steps_per_execution=step.PER_EXECUTION,
    )
    model.build((None, step.INPUTS))
    model.optimizer.build(model.trainable_variables)
    return model


def residual(model: bpfree.Learner) -> str:
    """The largest relative error of an inverse at the last step; backpropagation has none."""
    values = [float(inverse.residual) for inverse in getattr(model.rule, "inverses", ())]
    return f"{max(values):.0e}" if values else "–"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--inverses", nargs="+", default=["newton_schulz", "transpose", "solve"])
    parser.add_argument("--options", default="", help="further ones of gait, e.g. ortho_reg=0.1")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[60, 256, 1024])
    parser.add_argument("--depth", type=int, default=4, help="hidden layers")
    parser.add_argument("--rounds", type=int, default=3, help="after one round of warming up")
    parser.add_argument("--steps", type=int, default=20, help=f"multiple of {step.PER_EXECUTION}")
    options = parser.parse_args()
    for method in options.inverses:
        inverses.check(method, 1.0)

    rows = []
    for size in options.batch_sizes:
        models = {"bp": learner("bp", options.depth)}
        for method in options.inverses:
            spec = ",".join(filter(None, [f"gait:inverse={method}", options.options]))
            models[method] = learner(spec, options.depth)
        contenders = [step.fitting(model, options.steps, size) for model in models.values()]
        for contender in contenders:
            contender()
        rounds = [[contender() for contender in contenders] for _ in range(options.rounds)]
        times = dict(zip(models, np.transpose(rounds), strict=True))
        for name, taken in times.items():
            ratio = step.ratio(taken, times["bp"])
            rows.append([name, str(size), f"{np.median(taken):.1f}", ratio, residual(models[name])])

    print(compiled.surroundings())
    print(
        f"{step.INPUTS} wide, {options.depth} hidden layers, Adam, {options.rounds} rounds of "
        f"{options.steps} steps"
    )
    print(compiled.table(["inverse", "batch", "ms per step", "time / bp", "residual"], rows))


if __name__ == "__main__":
    main()
