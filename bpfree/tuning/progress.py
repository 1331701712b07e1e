"""Live progress: a line that moves in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from bpfree.tuning.failures import reason
from bpfree.tuning.objective import measured
from bpfree.tuning.records import Trial

_SPEAK_FOR_THEMSELVES = ("algorithm", "arch", "activation")


class Silence:
    """Shows nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def wave_began(self, trials: int, since: int, until: int) -> None:
        """So many trials are about to run, between these epochs; those that have ended are among them."""

    def trial_began(self, trial: Trial) -> None:
        """A trial is about to run."""

    def epoch_ended(self, trial: Trial, k: int, row: dict) -> None:
        """An execution has recorded an epoch."""

    def trial_ended(self, trial: Trial) -> None:
        """A trial has its outcome, now or from an earlier run."""

    def note(self, text: str) -> None:
        """Something worth saying once."""


class Progress(Silence):
    """Trials done of total, the best so far, failures, and the time left.

    The time left is estimated from the epochs that this process has run.

    Args:
        executions: per trial.
        regime: how they train.
        verbose: 2 prints every epoch.
        planned: how many trials will run from which epoch until which, as far as that is known.
        further: objectives beside the regime's.
        swept: hyperparameters by which trials are told apart.
    """

    def __init__(
        self,
        executions: int,
        regime,
        verbose: int = 1,
        planned: Sequence[tuple[int, int, int]] = (),
        further: Sequence[str] = (),
        swept: Collection[str] = (),
    ):
        self.swept = swept
        self.trials = sum(trials for trials, _, _ in planned)
        self.to_come = executions * sum(n * (until - since) for n, since, until in planned)
        self.executions = executions
        self.regime = regime
        self.verbose = verbose
        self.further = further
        self.console = Console()
        self.done = self.failed = self.epochs = 0
        self.under_way = Counter()  # epochs of trials that have not ended
        self.begun: set[str] = set()  # trials of this process
        self.earlier = 0  # trials that ended in another one, and have not been told of
        self.best: Trial | None = None
        self.here = ""

    def __enter__(self):
        self.started = time.monotonic()
        self.bar = Bar(
            SpinnerColumn(),
            TextColumn("trials"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=self.trials)
        self.bar.start()
        return self

    def __exit__(self, *error):
        self._tell_of_earlier()
        self.bar.stop()

    def wave_began(self, trials: int, since: int, until: int) -> None:
        self.span, self.until = (until - since) * self.executions, until
        more = max(0, self.done + trials - self.trials)
        self.trials += more
        self.to_come += more * self.span
        self.bar.update(self.task, total=self.trials)

    def trial_began(self, trial: Trial) -> None:
        self._tell_of_earlier()
        self.begun.add(trial.id)
        self.here = label(trial, self.swept)
        self._show()

    def epoch_ended(self, trial: Trial, k: int, row: dict) -> None:
        self.epochs += 1
        self.under_way[trial.id] += 1
        self.here = (
            f"{label(trial, self.swept)}, execution {k + 1}/{self.executions}, "
            f"epoch {row['epoch']}/{self.until}"
        )
        if self.verbose > 1:
            metrics = (f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
            count = f"epoch {row['epoch']:>{len(str(self.until))}}/{self.until}"
            self.note(f"{count}  {'  '.join(metrics)}")
        self._show()

    def trial_ended(self, trial: Trial) -> None:
        self.done += 1
        self.to_come -= self.span
        self.under_way.pop(trial.id, None)
        self.failed += trial.state == "failed"
        if trial.state == "completed" and (self.best is None or self._better(trial)):
            self.best = trial
        self._show()
        if trial.id in self.begun:
            self._print(trial)
        else:
            self.earlier += 1

    def note(self, text: str) -> None:
        # Not as it is: in a string Rich takes what stands in brackets for markup.
        self.console.print(Text(text), soft_wrap=True)

    def _better(self, trial: Trial) -> bool:
        return self.regime.objective.better_than(trial.score, self.best.score)

    def _tell_of_earlier(self) -> None:
        """One line for all that were on record, in the place of a line each."""
        if self.earlier:
            self.note(f"trials on record  {self.done}/{self.trials}  {self._summary()}")
        self.earlier = 0

    def _print(self, trial: Trial) -> None:
        """One line that stays, for every trial."""
        name = self.regime.objective.name
        if self.until < self.regime.epochs:
            name = f"after {self.until} epochs, {name}"
        outcome = "is under way to more epochs"  # than the wave's, to which it came before a kill
        if trial.state == "failed":
            outcome = ("failed", "red")
        elif trial.state == "completed":
            outcome = f"{name} {trial.score:.4g}{self._beside(trial)}"
        why = reason(trial.failure) or ""
        left = "" if self.bar.disable is False else f"  {self._summary()}"
        which = f"trial {self.done}/{self.trials}  {label(trial, self.swept)}  "
        self.console.print(Text.assemble(which, outcome, f" {why}{left}"), soft_wrap=True)

    def _beside(self, trial: Trial) -> str:
        """What a trial has of the further objectives."""
        there = measured(trial, self.further)
        told = {name: "not measured" for name in self.further}
        told |= {name: f"{value:.4g}" for name, value in there.items()}
        return "".join(f", {name} {value}" for name, value in told.items())

    def _show(self) -> None:
        told = f"{escape(self._summary())}  [dim]{escape(self.here)}[/dim]"
        self.bar.update(self.task, completed=self.done, description=told)

    def _summary(self) -> str:
        parts = (
            [f"best {self.best.score:.4g} ({label(self.best, self.swept)})"] if self.best else []
        )
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{duration(self._left())} left"] if self.epochs else []
        return ", ".join(parts)

    def _left(self) -> float:
        """Seconds that the remaining trials take at the pace of the epochs so far."""
        total = self.to_come - sum(self.under_way.values())
        return total * (time.monotonic() - self.started) / self.epochs


def label(trial: Trial, swept: Collection[str] = ()) -> str:
    """A trial in few words, `dfa 500 tanh lr 0.001`: rule, network, learning rate, and what else is swept."""
    words = []
    for name, value in trial.hyperparameters.items():
        shown = f"{value:g}" if isinstance(value, float) else f"{value}"
        if name in _SPEAK_FOR_THEMSELVES:
            words.append(shown)
        elif name == "lr" or name in swept:
            words.append(f"{name} {shown}")
    return " ".join(words) or trial.id


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `3 min` or `2 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
