"""The flags of tune.py and train.py: one vocabulary, read before any heavy import."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from absl import flags

from bpfree.cli import answer
from bpfree.errors import UserError
from bpfree.tuning import objective as objectives
from bpfree.tuning import space

HELD_OUT_TRACKERS = ("nhsic", "linear_probe")
TRACKERS = (
    *("bp_cosine", "local_loss", "weights", "gradients", "weight_alignment", "inverse_residual"),
    *HELD_OUT_TRACKERS,
)

_HELP = {
    "algorithm": "learning rule, with options after a colon: bp, shallow, fa, usf, brsf, frsf, dfa, sdfa, "
    "drtp, ll (cce, mse), lw, mf, cafo, sp, ff, ff_recurrent, pepita, dtp, tp, itp, gait, fg; ll:loss=mse, "
    "dfa:recompute=true, gait:ortho_reg=0.1",
    "arch": "hidden widths: 500-1000-500, 500x5; CONV_32_5_1_2_FC_1000_FC_10, vgg8b, vgg11, vgg13, vgg16, "
    "resnet18, resnet34, resnet50, vit, with options after a colon: vgg8b:width=0.25; square:4, "
    "tower:784-500-200",
    "activation": "tanh relu swish lrelu sigmoid elu step linear",
    "batch_norm": "batch normalisation",
    "bw_init": "feedback initialiser: ortho lecun glorot he uniform he_uniform",
    "fw_init": "forward initialiser: orthogonal lecun glorot he uniform zeros aligned",
    "use_bias": "biases in Dense layers",
    "optimizer": "adam adamw nadam adagrad adamax lion rmsprop sgd momentum nag",
    "lr_schedule": "constant, cosine, multistep, multistep:100-150 (epochs)",
    "weight_decay": "L2 regularisation λ/2 Σ K²; under adamw its decoupled decay",
    "batch_size": "examples per step",
    "scaler": "standard (to [-1, 1]), zero_one, identity",
    "schedule": "simultaneous, or sequential: block by block, then the head (rules with local losses)",
    "epochs_per_block": "of a sequential schedule, the head has the rest; 0: equal shares",
    "lr": "learning rate",
    "reg_rate": "dropout rate",
}


@dataclass(frozen=True)
class Settings:
    """What the command line says; the attributes are the flags.

    Attributes:
        given: the values of each tunable flag that was named, in order.
        objective: the first that was named; `further_objectives` are the others.
    """

    given: dict[str, list]
    experiment_dir: str | None
    dataset: str
    data_dir: str | None
    problem_type: str
    augment: tuple[str, ...]
    examples_frac: float
    validation: float
    num_epochs: int
    executions_per_trial: int
    objective: str
    further_objectives: tuple[str, ...]
    score: str
    tracker: tuple[str, ...]
    histogram_freq: int
    use_early_stopping: bool
    use_xla: bool
    population: str | int
    workers: str | None
    cpus_per_trial: float
    gpus_per_trial: float
    save_best_model: bool
    plugin: tuple[str, ...]
    lr_from: str | None
    search: str
    max_trials: int | None
    factor: int
    extend_grid: bool
    device: str | None
    dry_run: bool
    reset_training: bool
    seed: int


def parse(argv: Sequence[str], program: str) -> Settings | None:
    """Reads the command line; None if it asked for help, which is printed.

    Args:
        argv: with the program's name first.
        program: one line for `--help`.

    Raises:
        UserError: for an unknown flag, a malformed value, or a value that is out of range.
    """
    known = _define()
    try:
        rest = known(list(argv))[1:]
    except flags.Error as error:
        sentence = str(error).removeprefix("ERROR:: ").rstrip(".")
        raise UserError(f"{sentence}; see --help.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            "--flagfile names a file that is no text: give one flag per line."
        ) from error
    if known["help"].value:
        answer.show(f"{program}\n\nflags:\n{known.get_help()}")
        return None
    if rest:
        raise UserError(f"Unexpected argument {rest[0]!r}: every setting is a flag, see --help.")
    values = {name: known[name].value for name in known if name not in ("h", "help", *space.NAMES)}
    for name in ("augment", "tracker", "plugin"):
        values[name] = tuple(dict.fromkeys(values[name]))
    values["population"] = _population(values["population"])
    values["objective"], *further = values["objective"]
    values["further_objectives"] = tuple(further)
    given = {name: known[name].value for name in space.NAMES if known[name].present}
    settings = Settings(given=given, **values)
    _check(settings)
    _check_idle(settings, [name for name in known if known[name].present])
    if settings.lr_from == "":
        raise UserError(
            "--lr_from is empty: give an earlier experiment's directory, or leave it out."
        )
    if settings.lr_from and "lr" in given:
        raise UserError("--lr and --lr_from both say the learning rate: give one of them.")
    _check_search(settings)
    if settings.extend_grid:
        _check_extension(settings)
    return settings


def _define() -> flags.FlagValues:
    known = flags.FlagValues()

    def define(kind: Callable, name: str, default: Any, help: str, *more, **options) -> None:
        kind(name, default, *more, help=help, flag_values=known, **options)

    for name, help in _HELP.items():
        _define_tunable(known, name, help)
    define(flags.DEFINE_bool, "help", False, "show this help", short_name="h")
    define(flags.DEFINE_string, "experiment_dir", None, "where everything is written")
    define(
        flags.DEFINE_string,
        "dataset",
        "digits",
        "digits mnist fmnist kmnist cifar10 cifar100 eurosat imagenet32 caltech256, tfds:<name>, "
        "npz:<path>, folder:<path>",
    )
    define(flags.DEFINE_string, "data_dir", None, "prepared TensorFlow Datasets [$BPFREE_DATA_DIR]")
    problems = ["classification", "reconstruction"]
    define(flags.DEFINE_enum, "problem_type", problems[0], "what is learned", problems)
    define(
        flags.DEFINE_multi_string,
        "augment",
        [],
        "brightness rotation zoom translation flip crop; repeatable",
    )
    define(
        flags.DEFINE_float, "examples_frac", 1.0, "fraction of the training data; 0 and 1 mean all"
    )
    define(flags.DEFINE_float, "validation", 0.1, "fraction of it held out for val_* metrics")
    define(flags.DEFINE_integer, "num_epochs", 100, "epochs per execution")
    define(flags.DEFINE_integer, "executions_per_trial", 3, "trainings per trial, seeds apart")
    define(
        flags.DEFINE_multi_string,
        "objective",
        ["val_loss"],
        "val_loss val_error val_accuracy loss error accuracy; repeatable: the first scores trials (and alone "
        "promotes them in hyperband), others are measured beside it, weighed by bayesian and shown as a "
        f"Pareto front, and may be {' '.join(objectives.COSTS)}",
    )
    define(
        flags.DEFINE_enum,
        "score",
        "best",
        "an execution's best epoch, or its last",
        ["best", "last"],
    )
    define(
        flags.DEFINE_multi_enum,
        "tracker",
        [],
        "what to record of every block, once an epoch; repeatable",
        list(TRACKERS),
    )
    define(
        flags.DEFINE_integer, "histogram_freq", 0, "epochs between TensorBoard histograms; 0: none"
    )
    define(flags.DEFINE_bool, "use_early_stopping", False, "stop when the objective stalls")
    define(flags.DEFINE_bool, "use_xla", True, "compile the steps by XLA (JAX always does)")
    define(
        flags.DEFINE_string,
        "population",
        "auto",
        "executions of one shape that train together on JAX: auto, off, or at most so many",
    )
    define(
        flags.DEFINE_string,
        "workers",
        None,
        "who trains: ray (a cluster on this machine), ray:<host>:<port>, ray:auto; none: this process",
    )
    define(flags.DEFINE_float, "cpus_per_trial", 1.0, "that a worker has")
    define(flags.DEFINE_float, "gpus_per_trial", 0.0, "that a worker has; .25: four share one")
    define(flags.DEFINE_bool, "save_best_model", False, "save each rule's best model as .keras")
    define(flags.DEFINE_multi_string, "plugin", [], "a Python file that defines rules; repeatable")
    define(
        flags.DEFINE_string,
        "lr_from",
        None,
        "an earlier experiment: each rule gets the learning rate that was best for it there",
    )
    define(
        flags.DEFINE_enum,
        "search",
        "grid",
        "every point of the grid, random ones, those that promise most, or many short trainings of which the "
        "best go on to --num_epochs",
        ["grid", "random", "bayesian", "hyperband"],
    )
    define(flags.DEFINE_integer, "max_trials", None, "at most so many trials; not for hyperband")
    define(
        flags.DEFINE_integer,
        "factor",
        3,
        "hyperband: of every so many trials of a rule one goes on, to so many times the epochs",
    )
    define(
        flags.DEFINE_bool,
        "extend_grid",
        False,
        "try further learning rates for a rule whose best one lies at the border: up to 3 at either end",
    )
    define(flags.DEFINE_string, "device", None, "cpu, gpu or gpu:<index>")
    define(
        flags.DEFINE_bool,
        "dry_run",
        False,
        "print the grid and an estimate of the time, and write nothing",
    )
    define(
        flags.DEFINE_bool,
        "reset_training",
        False,
        "delete what the experiment holds, and begin anew",
    )
    define(flags.DEFINE_integer, "seed", 0, "of the first execution; the next has seed + 1")
    return known


def _define_tunable(known: flags.FlagValues, name: str, help: str) -> None:
    """A flag that may be given several times: then just those values are swept."""
    example = {**space.FIXED, "lr": 1e-3, "reg_rate": 0.0, "batch_norm": False}.get(name, "")
    if name in space.FIXED:
        help += f" [{example}]"
    else:
        swept = {**space.SWEPT, "lr": space.DECADES, "reg_rate": space.DROPOUT_RATES}[name]
        help += f" [swept over {' '.join(map(str, swept)).lower()}]"
    if isinstance(example, bool):
        # `--batch_norm`, `--nobatch_norm`, or both, which sweeps over both.
        flag = flags.MultiFlag(
            flags.BooleanParser(), flags.ArgumentSerializer(), name, None, help, boolean=True
        )
        flags.DEFINE_flag(flag, known)
    elif isinstance(example, int):
        flags.DEFINE_multi_integer(name, None, help, flag_values=known)
    elif isinstance(example, float):
        flags.DEFINE_multi_float(name, None, help, flag_values=known)
    else:
        flags.DEFINE_multi_string(name, None, help, flag_values=known)


def _population(value: str) -> str | int:
    if value in ("auto", "off"):
        return value
    if not value.isdigit() or int(value) < 1:
        raise UserError(f"--population is auto, off or a number from 1, received {value!r}.")
    return int(value)


def _check_idle(settings: Settings, named: Sequence[str]) -> None:
    """Refuses flags that were named and would decide nothing."""
    without_workers = None if settings.workers else "a worker's, and there is no --workers"
    search, schedules = settings.search, settings.given.get("schedule", ("simultaneous",))
    for name, reason in {
        "cpus_per_trial": without_workers,
        "gpus_per_trial": without_workers,
        "factor": None if search == "hyperband" else f"hyperband's, and --search is {search}",
        "epochs_per_block": None
        if set(schedules) - {"simultaneous"}
        else "a sequential schedule's, and --schedule is simultaneous",
    }.items():
        if reason and name in named:
            raise UserError(f"--{name} is {reason}: leave it out.")


def _check_search(settings: Settings) -> None:
    search, trials, factor = settings.search, settings.max_trials, settings.factor
    if trials is not None and trials < 1:
        raise UserError(f"--max_trials must be at least 1, received {trials}.")
    if search in ("random", "bayesian") and trials is None:
        raise UserError(f"--search {search} tries as many points as you say: give --max_trials.")
    if search != "hyperband":
        return
    if trials is not None:
        raise UserError(
            "How many trials --search hyperband has follows from --num_epochs and --factor: leave "
            "--max_trials out."
        )
    if factor < 2:
        raise UserError(f"--factor must be at least 2, received {factor}.")
    if settings.num_epochs < factor:
        raise UserError(
            f"--search hyperband trains some trials for 1 / {factor} of --num_epochs, received "
            f"{settings.num_epochs}: give at least {factor}."
        )
    if "sequential" in settings.given.get("schedule", ()):
        raise UserError(
            "--search hyperband judges trials by their first epochs, in which a sequential schedule trains "
            "the first block alone: choose another search."
        )


def _check_extension(settings: Settings) -> None:
    if settings.search != "grid":
        raise UserError(f"--extend_grid extends a grid, and --search is {settings.search}.")
    if settings.lr_from:
        raise UserError(
            "--extend_grid looks for better learning rates, and --lr_from fixes them: give one of them."
        )
    rates = settings.given.get("lr") or space.DECADES
    if len(set(rates)) < 2:
        raise UserError(
            f"--extend_grid goes on by the ratio of the outermost learning rates, received only {rates[0]}: "
            "give --lr at least twice."
        )


def _check(settings: Settings) -> None:
    """Answers what can be answered without importing Keras."""
    from bpfree.data.catalog import check_name
    from bpfree.data.preprocessing import check_names

    check_name(settings.dataset)
    check_names(settings.augment)
    for name, least in (("num_epochs", 1), ("executions_per_trial", 1), ("histogram_freq", 0)):
        value = getattr(settings, name)
        if value < least:
            raise UserError(f"--{name} must be at least {least}, received {value}.")
    if not 0 <= settings.seed < 2**31:
        raise UserError(f"--seed must lie in [0, 2**31), received {settings.seed}.")
    if not 0 <= settings.examples_frac <= 1:
        raise UserError(
            f"--examples_frac must lie in [0, 1], received {settings.examples_frac}: 0 means all."
        )
    if not 0 <= settings.validation < 1:
        raise UserError(f"--validation must lie in [0, 1), received {settings.validation}.")
    _check_workers(settings)
    named = (settings.objective, *settings.further_objectives)
    objectives.check(named, settings.problem_type, settings.validation)
    for name in HELD_OUT_TRACKERS:
        if name in settings.tracker and not settings.validation:
            raise UserError(
                f"The tracker {name!r} measures on validation data, and --validation is 0: hold out "
                "a fraction, e.g. 0.1."
            )


def _check_workers(settings: Settings) -> None:
    if settings.workers is None:
        return
    kind, _, address = settings.workers.partition(":")
    if kind != "ray" or (settings.workers != "ray" and not address):
        raise UserError(
            f"--workers is ray, ray:auto or ray:<host>:<port>, received {settings.workers!r}."
        )
    if not 0 < settings.cpus_per_trial < math.inf:
        raise UserError(
            f"--cpus_per_trial must be positive and finite, received {settings.cpus_per_trial}."
        )
    if not 0 <= settings.gpus_per_trial < math.inf:
        raise UserError(
            f"--gpus_per_trial must be 0 or positive, and finite, received {settings.gpus_per_trial}."
        )
    if find_spec("ray") is None:
        raise UserError(
            "--workers ray needs Ray, which is not installed: pip install 'bpfree[ray]'."
        )
