"""Closed forms of the learning rules in NumPy float64, written from the papers' formulas.

Each takes an `mlp.Problem` and returns the gradients `[K_1, b_1, …, K_head, b_head]`. Nothing here
imports bpfree.
"""

from oracles import alignment, dtp, feedback, forward, guessed, local, pepita, targets

ORACLES = {
    "bp": feedback.bp,
    "shallow": feedback.shallow,
    "dfa": feedback.dfa,
    "sdfa": feedback.sdfa,
    "drtp": feedback.drtp,
    "ll": feedback.ll,
    "fa": alignment.fa,
    "usf": alignment.usf,
    "frsf": alignment.frsf,
    "mf": local.mf,
    "cafo": local.cafo,
    "lw": local.lw,
    "sp": local.sp,
    "pepita": pepita.pepita,
    "dtp": dtp.dtp,
    "tp": targets.tp,
    "itp": targets.itp,
    "gait": targets.gait,
    "fg": guessed.fg,
}
"""By the rule's name; each takes the rule's options as keyword arguments and ignores others."""

OUTPUTS = {
    "mf": local.mf_outputs,
    "cafo": local.cafo_outputs,
    "ff": forward.classifier_outputs,
    "ff_recurrent": forward.recurrent_outputs,
}
"""What the task loss is of, where it is not the head's outputs."""
