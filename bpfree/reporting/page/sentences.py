"""What the page says in words: the verdict, what to know before believing it, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator

from bpfree.reporting import comparison
from bpfree.reporting.comparison import listed
from bpfree.reporting.courses import text
from bpfree.reporting.page.project import BY, Project

_MOST_FIGURES = 8
_MOST_NAMED = 5
_FEW_SEEDS = 5


def verdict(project: Project) -> str:
    """Which rule is best, and whether the difference is real."""
    seen = _chosen_on(project)
    said = comparison.verdict(
        project.board, project.compared, chosen_on=seen, tested=project.tested
    )
    if not len(project.compared) or (project.compared["lead"] == "reversed").any():
        return said
    if project.tested:
        return f"By {project.compared_on.removesuffix(' (%)')}, {said}"
    return f"On {seen} alone: {said}" if project.is_known else f"By {seen}: {said}"


def _chosen_on(project: Project) -> str:
    """What the sweep selects on."""
    if not project.is_known:
        return "a score of which nothing is recorded"
    return "validation data" if project.objective.startswith("val_") else "training data"


def figures(project: Project) -> str:
    """Mean and interval of every rule, the leader first."""
    found = dict(list(project.headline.items())[:_MOST_FIGURES])
    if not found:
        return ""
    numbers = {s.n for s in found.values()}
    one = f" (n={min(numbers)})" if len(numbers) == 1 else ""
    shown = [f"{rule} {str(s).removesuffix(one)}" for rule, s in found.items()]
    left_out = len(project.headline) - len(found)
    more = f" · {left_out} more below" if left_out else ""
    each = f" ({one.strip(' ()')} each)" if one else ""
    return f"{project.compared_on.capitalize()}: {' · '.join(shown)}{each}{more}"


def counts(project: Project) -> list[tuple[str, str]]:
    """How far the sweep is, as numbers and words."""
    states = [trial.state for trial in project.trials]
    total = project.record.get("trials")
    total = max(total, len(states)) if isinstance(total, int) else len(states)
    finished = int(project.frame["finished"].sum()) if len(project.frame) else 0
    pairs = [(f"{states.count('completed')} of {total}", "trials completed")]
    pairs += [(str(finished), "trainings finished")]
    return pairs + [
        (str(n), state) for state in ("running", "failed") if (n := states.count(state))
    ]


def caveats(project: Project) -> Iterator[str]:
    """What must be known to believe the verdict."""
    if not len(project.board):
        return
    if len(project.compared):
        many = int(project.compared["p"].notna().sum())
        correction = f", p corrected by Holm for {many} comparisons" if many > 1 else ""
        yield (
            f"Compared on {project.compared_on} by paired t tests over shared seeds{correction}; "
            "intervals are not corrected."
        )
    yield _selection(project)
    yield from _inversion(project)
    if project.overlapping:
        many = len(project.overlapping) > 1
        rules = listed(list(map(str, project.overlapping)))
        yield (
            f"The interval{'s' * many} of {rules} overlap{'s' * (not many)} that of "
            f"{project.leader}; the paired comparison says which differences are real."
        )
    yield from _by_error(project)
    fewest = int(project.board["n"].min())
    if fewest < _FEW_SEEDS:
        yield (
            f"Only {fewest} execution{'s' * (fewest > 1)} per rule: a paper needs at least "
            f"{_FEW_SEEDS}, of fresh seeds."
        )
    for rule, (rate, side) in project.edges.items():
        yield (
            f"The best learning rate of {rule}, {text(rate)}, is the {side} tried: it may do better "
            f"with {'higher' if side == 'highest' else 'lower'} ones."
        )


def _selection(project: Project) -> str:
    chosen = project.label(project.objective)
    if project.tested:
        return (
            f"Each rule's hyperparameters were chosen on {chosen}{_epoch(project)}; the test set was "
            "used once, for the chosen trials only."
        )
    if project.objective.startswith("val_"):
        return (
            "The test set is not used yet: these are the validation values that chose the "
            "hyperparameters, which flatter every rule."
        )
    if not project.is_known:
        return "What the score measures is not recorded; less of it is taken for better."
    return "Chosen and compared on training data: this says nothing about generalisation."


def _epoch(project: Project) -> str:
    """Which epoch of a training counts."""
    which = project.configuration.get("score")
    return f", at the {which} epoch of each training" if which in ("best", "last") else ""


def _inversion(project: Project) -> Iterator[str]:
    """Says so where the leader, chosen on the objective, is not first on what rules are compared on."""
    sign = -1 if project.maximised else 1
    best = min(project.headline, key=lambda rule: (sign * project.headline[rule].mean, rule))
    if sign * project.headline[best].mean < sign * project.headline[project.leader].mean:
        yield (
            f"{project.leader} comes first by {project.label(project.objective)}; the best mean "
            f"{project.compared_on} is that of {best}."
        )


def _by_error(project: Project) -> Iterator[str]:
    """Says so where a lead is not the same on the test error, which is what most readers ask for."""
    if not len(project.by_error):
        return
    other = project.by_error[project.by_error["lead"] != project.compared["lead"]]
    for lead, rows in other.groupby("lead"):
        rules = listed(list(map(str, rows[BY])))
        yield f"By {project.label('test_error')}, the lead over {rules} is {lead}."


def missing(project: Project) -> Iterator[str]:
    """What the page cannot show, and why."""
    yield from project.spoilt
    if not project.record:
        yield "experiment.json is missing: configuration, versions, command and commit are unknown."
    elif not project.configuration:
        yield "experiment.json holds no configuration."
    if not project.trials:
        yield "There is no trial yet."
    if lost := project.lost:
        which = listed([*lost[:_MOST_NAMED], *["more"] * (len(lost) > _MOST_NAMED)])
        yield f"The hyperparameters of {which} are lost: trial.json is missing or spoilt."
    for trial in [t for t in project.trials if t.state == "completed"]:
        there = int((project.done["trial"] == trial.id).sum())
        if there < len(trial.scores):
            yield f"Of trial {trial.id} the results of {there} of {len(trial.scores)} trainings are there."
    for trial in [t for t in project.trials if t.state == "running"][:_MOST_NAMED]:
        rows = project.frame[project.frame["trial"] == trial.id]
        yield (
            f"Trial {trial.id} is running or was cut short, with {int(rows['finished'].sum())} "
            f"trainings finished and {int(rows['epochs'].sum())} epochs recorded; the command that "
            "began the sweep goes on from there."
        )
