"""train.py: one training run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bpfree.cli import answer, experiment, flags
from bpfree.errors import UserError
from bpfree.tuning import records, space

PROGRAM = (
    "train.py: trains one network by one learning rule, with the flags of tune.py.\n\n"
    "A flag left out has the first value of tune.py's default range, and --lr is 0.001. Writes\n"
    "history.csv, test.json, model.keras and history.png to --experiment_dir. Run the same command\n"
    "again after a crash, and it goes on where it was."
)


def main(argv: list[str]) -> int:
    """Trains, evaluates on the test set, saves; see `PROGRAM`."""
    settings = flags.parse(argv, PROGRAM)
    if settings is None:
        return 0
    if settings.dry_run:
        raise UserError(
            "train.py has no --dry_run, since it trains one network: that is tune.py's."
        )
    if settings.workers:
        raise UserError(
            "train.py has no --workers, since it trains one network: they are tune.py's."
        )
    objectives = [settings.objective, *settings.further_objectives]
    for name, values in {**settings.given, "objective": objectives}.items():
        if len(values) > 1:
            raise UserError(f"train.py takes one --{name}, received {values}: sweep with tune.py.")
    for name, default in experiment.SEARCH.items():
        if getattr(settings, name) != default:
            raise UserError(
                f"train.py has no --{name}, since it trains one network: that is tune.py's."
            )
    settings = replace(settings, executions_per_trial=1)
    choices = space.single(settings.given)
    records.check_place(settings.experiment_dir or "runs")
    if settings.experiment_dir:
        _check_taken(settings)
    data, hypermodel, configuration = experiment.prepare(settings, choices)
    name = experiment.project_name(settings, configuration)
    directory = Path(settings.experiment_dir or Path("runs") / name)

    from bpfree.cli import conclusion
    from bpfree.tuning import GridSearch

    tuner = GridSearch(
        hypermodel,
        objective=settings.objective,
        directory=directory.parent,
        project_name=directory.name,
        executions_per_trial=1,
        seed=settings.seed,
        score=settings.score,
        population=settings.population if settings.use_xla else "off",
        overwrite=settings.reset_training,
        verbose=2,
    )
    experiment.search(tuner, settings, data, configuration)
    (values,) = tuner.oracle.points()
    trial = tuner.experiment.trial(0, values)
    if trial.state != "completed":
        print(trial.failure)
        return answer.NOTHING_SUCCEEDED
    conclusion.conclude_run(tuner, trial, data)
    return 0


def _check_taken(settings: flags.Settings) -> None:
    """Raises a UserError where a sweep lies, or files in the place of the run's that are of no run."""
    there = records.Experiment(settings.experiment_dir, read_only=True)
    if there.exists():
        if not settings.reset_training and any(trial.index for trial in there.trials()):
            raise UserError(
                f"{there.path} holds a sweep: give another directory, or --reset_training to delete it."
            )
        return
    taken = [name for name in records.RUN_FILES if (there.path / name).exists()]
    if taken:
        raise UserError(
            f"{there.path} holds {', '.join(taken)}, and no experiment that wrote it: give another "
            "directory, or move it away."
        )
