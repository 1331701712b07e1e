"""Search: what every durable search does."""

from __future__ import annotations

import gc
import json
import os
import random
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pandas as pd
from keras_tuner.engine.hyperparameters import Fixed
from keras_tuner.engine.trial import Trial, TrialStatus

from bpfree.costs import Meter
from bpfree.data.dataset import Dataset
from bpfree.data.preprocessing import scaler
from bpfree.errors import SearchError, UserError
from bpfree.tuning import about, execution, records
from bpfree.tuning.callbacks import made
from bpfree.tuning.checkpoint import spoilt
from bpfree.tuning.crew import Crew
from bpfree.tuning.execution import Regime
from bpfree.tuning.oracle import Oracle, Wave
from bpfree.tuning.population import AVAILABLE
from bpfree.tuning.populations import Populations
from bpfree.tuning.programs import Programs
from bpfree.tuning.progress import Progress, Silence

_MAX_DEATHS = 3


class Search(keras_tuner.Tuner):
    """A search that a crash cannot spoil: run the same program again and it goes on.

    Every point that the oracle proposes is a trial, every trial has `executions_per_trial` executions, which
    differ in their seed: `seed`, `seed + 1`, … for every trial alike. A trial's score is the mean of its
    executions' scores. A trial that fails is recorded with its traceback and the search goes on. The truth
    is in the files of the project, see `bpfree.tuning.records`; `bpfree.reporting` reads them.

    Args:
        hypermodel: a function `build(hp)` that returns a compiled model, or a
            `keras_tuner.HyperModel`. It may read the execution's seed as `hp.values["seed"]`; Python's,
            NumPy's and the backend's random states are seeded with it as well, but for the last if an
            attribute `seeds_itself` is true.
        oracle: which points to try, wave after wave.
        directory: where experiments are.
        project_name: this one's folder in it.
        executions_per_trial: trainings per trial, ≥ 1.
        seed: of the first execution, any integer.
        score: what an execution is scored by: `best`, its best epoch, or `last`.
        keep_weights: `best` keeps the weights of the best trial of each algorithm, `all` of all.
        population: on JAX, executions that are one program (`hypermodel.program(values)` says which
            are) train together, see `bpfree.tuning.population`: `auto`, as many as the device has room
            for; a number, at most so many; `off`, one by one. The results are the same.
        overwrite: whether to begin anew, deleting what the project holds.
        verbose: 0 is silent, 1 prints a line per trial, 2 a line per epoch; in a terminal both show
            what is left.

    Raises:
        UserError: for an impossible argument, or a project that holds another configuration.
    """

    def __init__(
        self,
        hypermodel: keras_tuner.HyperModel | Callable,
        oracle: Oracle,
        directory: str | os.PathLike | None = None,
        project_name: str | None = None,
        executions_per_trial: int = 3,
        seed: int = 0,
        score: str = "best",
        keep_weights: str = "best",
        population: str | int = "auto",
        overwrite: bool = False,
        verbose: int = 1,
    ):
        _require("executions_per_trial", executions_per_trial, executions_per_trial >= 1, "≥ 1")
        _require("score", score, score in ("best", "last"), "best or last")
        _require("keep_weights", keep_weights, keep_weights in ("best", "all"), "best or all")
        sized = isinstance(population, int) and population >= 1
        known = sized or population in ("auto", "off")
        _require("population", population, known, "auto, off or a number ≥ 1")
        self.experiment = records.Experiment(
            Path(directory or ".") / (project_name or "untitled_project")
        )
        if overwrite:
            self.experiment.clear()
        super().__init__(
            oracle,
            hypermodel,
            directory=os.fspath(directory) if directory else None,
            project_name=project_name,
            executions_per_trial=executions_per_trial,
        )
        self.seed = seed
        self.score = score
        self.keep_weights = keep_weights
        self.population = population
        self.verbose = verbose
        self.meter = Meter()
        self._programs = Programs()
        self._begun = False  # whether this process has trained a trial of the search
        for trial in self.experiment.trials():
            self.oracle.record(trial)

    def _populate_initial_space(self):
        # Keras Tuner keeps this name for AutoKeras to override. Its own version always builds
        # models; a hypermodel that declares its space needs none.
        hp = self.oracle.get_space()
        self.hypermodel.declare_hyperparameters(hp)
        self.oracle.update_space(hp)
        if not self.oracle.get_space().space:
            super()._populate_initial_space()

    def search(
        self,
        data: Dataset,
        epochs: int,
        callbacks: Sequence[keras.callbacks.Callback] | Callable = (),
        settings: dict[str, Any] | None = None,
        between: Callable[[], None] | None = None,
        workers: Crew | None = None,
        **regime,
    ) -> None:
        """Runs every trial that is not finished yet, each execution from where it stands.

        Args:
            data: from `bpfree.data.load`.
            epochs: per execution.
            callbacks: Keras callbacks, copied for every execution; or a function
                `(model, trial, k) -> callbacks` that makes them.
            settings: whatever else decides the results, for the record: a project is refused when
                it was begun with others.
            between: called between two trials.
            workers: train the trials in the place of this process; they need `callbacks` of their own.
            **regime: `batch_size`, `scaler`, `augment`, `problem_type`, `early_stopping`; see
                `bpfree.tuning.execution.Regime`. `batch_size` and `scaler` may be hyperparameters
                instead.

        Raises:
            UserError: if the project holds another configuration, the disk is full, no point of the
                grid is admissible, or training does not log the objective.
        """
        self.regime = Regime(epochs, self.oracle.objective, self.score, **regime)
        trials: dict[int, Trial] = {}  # what came of those so far, by which the oracle goes on
        waves = self.oracle.waves(trials, epochs)
        first = next(waves, None)
        if first is None:
            raise UserError("The grid is empty, since no combination can work: allow other values.")
        for values in first.points.values():
            scaler(self.regime.for_trial(values).scaler, data.x_train.dtype)
        self._check_trials(first.points)
        self.experiment.open(
            about.configuration(self, data, settings or {}),
            {
                **about.versions(),
                "direction": self.oracle.objective.direction,
                "trials": max(len(first.points), self._planned_trials()),
            },
        )
        about.archive_source(self.experiment.path)
        _settle_memory()
        self._best: dict[Any, records.Trial] = {}  # by algorithm, of the trials this loop has met
        with self.experiment.lock(), self.meter, self._progress() as progress, self._stoppable():
            self._mend()
            populations = None if workers else self._populations(data, callbacks, progress)
            paused: list[records.Trial] = []
            for wave in chain([first], waves):
                self._put_away(trial for trial in paused if trial.index not in wave.points)
                self.regime = replace(self.regime, until=wave.until)
                progress.wave_began(len(wave.points), wave.since, self.regime.last)
                if workers:
                    ended = workers.train(self, wave.points, data, progress)
                else:
                    ended = self._trials(wave, populations, data, callbacks, progress, between)
                outcomes, paused = {}, []
                for trial in ended:
                    outcomes[trial.index] = trial
                    progress.trial_ended(trial)
                    if self.regime.last < epochs:
                        paused.append(trial)
                    else:
                        self._drop_weights(trial)
                # In order, which is not that in which workers came to their ends.
                for index in wave.points:
                    trials[index] = self._recorded_now(outcomes[index])
            self._put_away(paused)

    def train(
        self,
        points: Mapping[int, dict[str, Any]],
        data: Dataset,
        callbacks: Sequence[keras.callbacks.Callback] | Callable,
        progress: Silence,
    ) -> Iterator[records.Trial]:
        """Brings some trials to their ends, as a part of a search by `regime`, and gives each.

        Args:
            points: the values of each, by the trial's index.
            data: the data set.
            callbacks: as `search` has them.
            progress: told of beginnings and epochs.
        """
        populations = self._populations(data, callbacks, progress)
        # The meter is not entered: where others train, what it would measure first is no idle power.
        return self._trials(Wave(points), populations, data, callbacks, progress)

    def run_trial(
        self, trial: records.Trial, data: Dataset, callbacks=(), report=None
    ) -> list[float]:
        """Runs the executions that are not finished, and returns every execution's score."""
        scores = []
        for k in range(self.executions_per_trial):
            done = trial.execution(k)
            result = execution.outcome(done, self.regime)
            if result is None:
                seed = self.seed + k
                model = self.model(trial.hyperparameters, seed, data.input_shape)
                result = execution.run(
                    model,
                    data,
                    self.regime.for_trial(trial.hyperparameters),
                    done,
                    seed,
                    made(callbacks, model, trial, k),
                    (lambda row, k=k: report(trial, k, row)) if report else lambda row: None,
                    self.meter,
                )
            scores.append(result["score"])
        return scores

    def build(self, values: dict[str, Any], seed: int | None = None) -> keras.Model:
        """The compiled, untrained model of these hyperparameters and this seed."""
        hp = self.oracle.get_space()
        hp.values = dict(values)
        if seed is not None:
            _seed(seed, getattr(self.hypermodel, "seeds_itself", False))
            hp.values["seed"] = seed
        return self.hypermodel.build(hp)

    def model(self, values: dict[str, Any], seed: int, input_shape: Sequence[int]) -> keras.Model:
        """Like `build`, but ready to train, and compiled already if the last one's program was it."""
        key = self.program(values)
        return self._programs.model(key, lambda: self.build(values, seed), input_shape)

    def program(self, values: dict[str, Any]) -> str:
        """Equal for hyperparameters whose models are one program."""
        program = getattr(self.hypermodel, "program", lambda values: values)
        return json.dumps(program(values), sort_keys=True)

    def probe(self, data: Dataset, values: dict[str, Any], held_out: bool = False) -> tuple:
        """A fixed batch for trackers, scaled as a trial scales it: 256 training examples and targets.

        Args:
            data: the data set; its test examples are not looked at.
            values: the trial's hyperparameters.
            held_out: gives up to 1024 validation examples and their labels, one-hot, whatever the
                problem type.

        Raises:
            UserError: if there are no validation examples to hold out.
        """
        regime = replace(self.regime.for_trial(values), batch_size=256, augment=())
        if not held_out:
            return execution.Feed(data, regime).train(self.seed)[0]
        if not len(data.x_val):
            raise UserError("There are no validation examples to measure on: hold out some.")
        # The order of a training epoch mixes the classes.
        unseen = replace(data, x_train=data.x_val, y_train=data.y_val)
        regime = replace(regime, batch_size=1024, problem_type="classification")
        x, labels = execution.Feed(unseen, regime).train(self.seed)[0]
        return x, keras.utils.to_categorical(labels, data.classes)

    def load_model(self, trial) -> keras.Model:
        """The model of a trial's best execution, with the weights it kept."""
        recorded = self._recorded(trial.trial_id)
        sign = -1 if self.oracle.objective.direction == "max" else 1
        k = min(range(len(recorded.scores)), key=lambda k: sign * recorded.scores[k])
        model = self.build(recorded.hyperparameters, self.seed + k)
        model.build((None, *self.experiment.record()["configuration"]["data"]["input_shape"]))
        # A saved model whose optimizer is not built loads with a warning.
        model.optimizer.build(model.trainable_variables)
        execution.load_best(model, recorded.execution(k))
        return model

    def results(self) -> pd.DataFrame:
        """One row per execution; see `bpfree.reporting.results`."""
        from bpfree import reporting

        return reporting.results(self.experiment.path)

    def leaderboard(self, data: Dataset | None = None, by: str = "algorithm") -> pd.DataFrame:
        """The best trial of each algorithm; see `bpfree.reporting.leaderboard`.

        Args:
            data: if given, the chosen trials' executions are evaluated on its test set, each once
                and for all: the metrics are recorded and never computed again.
            by: the hyperparameter whose values compete.
        """
        from bpfree import reporting

        board = reporting.leaderboard(self.experiment.path, by)
        if data is None:
            return board
        for trial in board["trial"]:
            self._test(self._recorded(trial), data)
        return reporting.leaderboard(self.experiment.path, by)

    # -- inside ---------------------------------------------------------------------------------

    def _trials(
        self, wave: Wave, populations: Populations | None, data, callbacks, progress, between=None
    ) -> Iterator[records.Trial]:
        """The wave's trials in order, each brought to its end."""
        if populations:
            populations.begin(wave.points)
        for index, values in wave.points.items():
            trial = self.experiment.trial(index, values)
            left = not execution.ended(trial, self.regime)
            if left and self._begun and between:
                between()
            self._begun |= left
            if left and populations:
                populations.train(index)
                trial = self.experiment.trial(index, values)
            if not execution.ended(trial, self.regime):
                self._attempt(trial, data, callbacks, progress)
            yield trial

    def _attempt(self, trial: records.Trial, data, callbacks, progress) -> None:
        trial.begin(self.regime.until)
        progress.trial_began(trial)
        if trial.deaths >= _MAX_DEATHS:
            trial.fail(
                f"The process died {trial.deaths} times in this trial without finishing an epoch."
            )
            return
        try:
            scores = self.run_trial(trial, data, callbacks, progress.epoch_ended)
        except SearchError:
            raise
        except Exception:
            trial.fail(traceback.format_exc(), self._scores(trial))
        else:
            trial.complete(sum(scores) / len(scores), scores)

    def _check_trials(self, points: Mapping[int, dict[str, Any]]) -> None:
        """Where `experiment.json` is lost, tells another search by what is left of its first trials."""
        if self.experiment.record():
            return
        for trial in self.experiment.trials():
            values = points.get(trial.index)
            if values and not self._may_be_ours(trial, values):
                raise UserError(
                    f"{trial.path} is of another configuration, and experiment.json is lost: give "
                    "another directory, or --reset_training to start this one anew."
                )

    def _may_be_ours(self, trial: records.Trial, values: dict[str, Any]) -> bool:
        if trial.id != self.experiment.trial(trial.index, values).id:
            return False
        epochs, stopped = self.regime.epochs, self.regime.early_stopping or trial.until
        results = [(done.index, done.result()) for done in trial.executions()]
        return all(
            result.get("seed") == self.seed + k
            and (result["epochs"] == epochs or stopped and result["epochs"] < epochs)
            for k, result in results
            if result
        )

    def _mend(self) -> None:
        """Makes unfinished what spoilt files have lost, but for results that follow from what is left."""
        for trial in self.experiment.trials():
            for done in trial.executions() if trial.state != "failed" else ():
                if spoilt(done.best_weights):
                    done.restart(done.best_weights)
            if trial.state == "completed":
                regime = replace(self.regime, until=trial.until)
                for done in map(trial.execution, range(len(trial.scores))):
                    execution.recover(done, regime, self.seed + done.index)
            trial.mend()

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """What ends by a signal that asks for it, or by what every trial would meet, kills no trial."""
        try:
            yield
        except (SearchError, KeyboardInterrupt, SystemExit):
            for trial in self.experiment.trials():
                if trial.state == "running":
                    with suppress(SearchError):  # a full disk
                        trial.leave()
            raise

    def _scores(self, trial: records.Trial) -> list[float]:
        """The scores of the executions that are finished."""
        results = [execution.outcome(done, self.regime) for done in trial.executions()]
        return [result["score"] for result in results if result]

    def _planned_trials(self) -> int:
        """How many trials there will be, as far as it is known."""
        return sum(n for n, since, _ in self.oracle.planned(self.regime.epochs) if not since)

    def _recorded_now(self, trial: records.Trial) -> Trial:
        """The trial in Keras Tuner's terms, as it was at the wave's last epoch; it may have gone on since."""
        known = self.oracle.record(trial)
        if self.regime.until is not None:
            known.score = execution.score_at(trial, self.regime, self.executions_per_trial)
            failed = known.score is None
            known.status = TrialStatus.FAILED if failed else TrialStatus.COMPLETED
        return known

    def _populations(self, data, callbacks, progress) -> Populations | None:
        if self.population == "off" or not hasattr(self.hypermodel, "program"):
            return None
        if not AVAILABLE:
            if not self.experiment.trials():  # said when the search began
                progress.note("Trials are trained one by one: populations need the JAX backend.")
            return None
        limit = None if self.population == "auto" else self.population
        return Populations(self, data, callbacks, progress, limit)

    def _progress(self):
        if not self.verbose:
            return Silence()
        planned = self.oracle.planned(self.regime.epochs)
        further = [objective.name for objective in self.oracle.further_objectives]
        space = self.oracle.get_space().space
        swept = [parameter.name for parameter in space if not isinstance(parameter, Fixed)]
        return Progress(
            self.executions_per_trial, self.regime, self.verbose, planned, further, swept
        )

    def _recorded(self, trial_id: str) -> records.Trial:
        (trial,) = [trial for trial in self.experiment.trials() if trial.id == trial_id]
        return trial

    def _trained(self, trial: records.Trial, k: int) -> keras.Model:
        shape = self.experiment.record()["configuration"]["data"]["input_shape"]
        model = self.model(trial.hyperparameters, self.seed + k, shape)
        execution.load_best(model, trial.execution(k))
        return model

    def _test(self, trial: records.Trial, data: Dataset) -> None:
        for k in range(self.executions_per_trial):
            done = trial.execution(k)
            if done.test() is None:
                regime = self.regime.for_trial(trial.hyperparameters)
                metrics = execution.evaluate(self._trained(trial, k), data, regime)
                records.write_json(done.test_file, metrics)

    def _better(self, ended: records.Trial, best: records.Trial) -> bool:
        """The first of equals is the better one, in whatever order they have ended."""
        if ended.score == best.score:
            return ended.index < best.index
        return self.oracle.objective.better_than(ended.score, best.score)

    def _put_away(self, paused: Iterable[records.Trial]) -> None:
        """Drops what trials would need to go on, and weights that nobody asks for."""
        for trial in paused:
            # Of one that failed, it says that the execution did not come to its end.
            for done in trial.executions() if trial.state == "completed" else ():
                done.checkpoint.unlink(missing_ok=True)
            self._drop_weights(trial)

    def _drop_weights(self, ended: records.Trial) -> None:
        """Keeps the weights of the best trial of the ended one's algorithm, and no others'."""
        if self.keep_weights == "all" or ended.state != "completed":
            return
        algorithm = ended.hyperparameters.get("algorithm")
        best = self._best.get(algorithm)
        if best is None or self._better(ended, best):
            self._best[algorithm], ended = ended, best
        for done in ended.executions() if ended else ():
            done.best_weights.unlink(missing_ok=True)


def _seed(seed: int, seeds_itself: bool) -> None:
    if seeds_itself:
        # Not Keras's function: it takes seconds to import TensorFlow, on JAX as well.
        random.seed(seed)
        np.random.seed(seed % 2**32)
    else:
        keras.utils.set_random_seed(seed)


def _require(name: str, value: Any, holds: bool, wanted: str) -> None:
    if not holds:
        raise UserError(f"{name} must be {wanted}, received {value!r}.")


def _settle_memory() -> None:
    """Takes what the imports made out of garbage collection, which every trial runs twice."""
    gc.collect()
    gc.freeze()
