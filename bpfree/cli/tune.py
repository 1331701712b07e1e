"""tune.py: a sweep."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bpfree.cli import answer, experiment, flags, renewal
from bpfree.errors import UserError
from bpfree.tuning import records, space

PROGRAM = (
    "tune.py: searches learning rules, architectures and learning rates, by default as a grid.\n\n"
    "A tunable flag left out is swept over its default range or has the default in brackets; given\n"
    "once it is fixed; given several times it is swept over just those values. Run the same command\n"
    "again after a crash, and it goes on where it was; train.bash does that by itself."
)


def main(argv: list[str]) -> int:
    """Searches, then prints the leaderboard; see `PROGRAM`."""
    settings = flags.parse(argv, PROGRAM)
    if settings is None:
        return 0
    if not settings.experiment_dir and not settings.dry_run:
        raise UserError("No directory to write to: give --experiment_dir, e.g. runs/first.")
    if not settings.dry_run:
        records.check_place(settings.experiment_dir)
    choices = space.choices(settings.given, settings.problem_type, settings.objective)
    data, hypermodel, configuration = experiment.prepare(settings, choices)
    if settings.dry_run:
        from bpfree.cli import plan

        plan.show(settings, hypermodel, data)
        return 0
    name = experiment.project_name(settings, configuration)

    from bpfree.cli.page import Page

    page = Page(Path(settings.experiment_dir) / name)
    # Called with other arguments than this process has, a sweep cannot replace the process.
    between = renewal.Renewal() if argv is sys.argv else None
    try:
        with experiment.workers(settings, page) as workers:
            experiment.claim(settings, name, configuration)
            tuner = _search(settings)(
                hypermodel,
                objective=[settings.objective, *settings.further_objectives],
                directory=settings.experiment_dir,
                project_name=name,
                executions_per_trial=settings.executions_per_trial,
                seed=settings.seed,
                score=settings.score,
                population=settings.population,
            )
            how = {"between": between, "workers": workers}
            experiment.search(tuner, settings, data, configuration, [page], **how)
    except renewal.Due:
        renewal.renew()
    if not any(trial.state == "completed" for trial in tuner.experiment.trials()):
        page.write()
        print(f"No trial succeeded; the tracebacks are in {tuner.experiment.path}/trials.")
        return answer.NOTHING_SUCCEEDED

    from bpfree.cli import conclusion

    conclusion.conclude(tuner, data, save_models=settings.save_best_model)
    if file := page.write():
        print(f"Report: {file}")
    return 0


def _search(settings: flags.Settings) -> Callable:
    """What makes the search that `--search` names."""
    from bpfree import tuning

    if settings.search == "hyperband":
        return partial(tuning.Hyperband, factor=settings.factor)
    if settings.search == "bayesian":
        return partial(tuning.BayesianOptimization, max_trials=settings.max_trials)
    if settings.search == "random":
        return partial(tuning.RandomSearch, max_trials=settings.max_trials)
    return partial(
        tuning.GridSearch, max_trials=settings.max_trials, extend_grid=settings.extend_grid
    )
