"""A sweep without networks, and two ways to murder it; run as a script, it imports no package.

    python -S -E fake_sweep.py sweep DIRECTORY
    python -S -E fake_sweep.py kill DIRECTORY SEED KILLS    kill -9 at random moments
    python -S -E fake_sweep.py crash DIRECTORY              death at each system call in turn

What is left of the last two is for the caller to compare with an undisturbed sweep.
"""

import contextlib
import json
import os
import random
import signal
import stat
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from bpfree.tuning.records import Experiment, write_atomic  # noqa: E402

CONFIGURATION = {"num_epochs": 4, "dataset": "none", "seed": 3}
RATES = [0.1, 0.01, 0.001]
EXECUTIONS = 2


def sweep(directory, rates=RATES, pause=0.0):
    experiment = Experiment(directory)
    with experiment.lock():
        experiment.open(CONFIGURATION, {"versions": {"python": "3"}})
        for index, rate in enumerate(rates):
            trial = experiment.trial(index, {"algorithm": "dfa", "lr": rate})
            if trial.state == "completed":
                continue
            trial.begin()
            scores = [train(trial.execution(k), rate, k, pause) for k in range(EXECUTIONS)]
            trial.complete(sum(scores) / len(scores), scores)


def train(execution, rate, seed, pause):
    """Each epoch depends on the one before, so that a wrong resumption changes every later row."""
    if result := execution.result():
        return result["score"]
    state = {"epoch": 0, "loss": rate + seed, "losses": []}
    with contextlib.suppress(FileNotFoundError):
        state = json.loads(execution.checkpoint.read_text())
    assert len(execution.cut(state["epoch"])) == state["epoch"]
    while state["epoch"] < CONFIGURATION["num_epochs"]:
        state["epoch"] += 1
        state["loss"] = 3.7 * state["loss"] * (1 - state["loss"] / 8)
        state["losses"].append(state["loss"])
        row = {"epoch": state["epoch"], "loss": state["loss"]}
        if state["epoch"] > 2:
            row["late"] = -state["loss"]
        execution.append(row)
        write_atomic(execution.checkpoint, json.dumps(state))
        time.sleep(pause)
    score = min(state["losses"])
    execution.finish({"score": score, "epochs": state["epoch"], "seed": seed})
    return score


def child(work, *args, **kwargs):
    """Calls it in a forked process, and returns its id."""
    pid = os.fork()
    if pid == 0:
        try:
            work(*args, **kwargs)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def kill(directory, seed, kills):
    """Sweeps, one after the other, each killed and resumed until it ends."""
    chance, killed, finished = random.Random(seed), 0, 0
    while True:
        pid = child(sweep, f"{directory}/{finished}", pause=0.001)
        if killed < kills:
            time.sleep(chance.uniform(0, 0.06))
            os.kill(pid, signal.SIGKILL)  # one that is over waits for us as a zombie
        status = os.waitpid(pid, 0)[1]
        assert status in (0, signal.SIGKILL), status
        killed += status == signal.SIGKILL
        finished += status == 0
        if status == 0 and killed >= kills:
            return print(json.dumps({"killed": killed}))


def crash(directory):
    """Sweeps that die at their n-th system call, for each n until one survives, then resumed."""
    for n in range(10_000):
        place = f"{directory}/{n}"
        if os.waitpid(child(_dying, place, n), 0)[1] == 0:
            break
        status = os.waitpid(child(_dying, place, None), 0)[1]
        assert status == 0, (n, status)
    print(json.dumps({"crashes": n}))


def _dying(directory, n):
    """A sweep whose n-th sync tears the file's end off, or which dies before or after a rename."""
    calls = 0
    replace, mkdir, unlink = os.replace, os.mkdir, os.unlink

    def step(last_deed=lambda: None):
        nonlocal calls
        if calls == n:
            last_deed()
            os._exit(9)
        calls += 1

    def around(operation):
        def wrapped(*args, **kwargs):
            step()
            operation(*args, **kwargs)
            step()

        return wrapped

    def tear(descriptor):
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            step(lambda: os.ftruncate(descriptor, max(0, status.st_size - 3)))
        step()

    os.fsync, os.replace = tear, around(replace)
    os.mkdir, os.unlink = around(mkdir), around(unlink)
    sweep(directory, rates=RATES[:1])


if __name__ == "__main__":
    command, directory, *numbers = sys.argv[1:]
    {"sweep": sweep, "kill": kill, "crash": crash}[command](directory, *map(int, numbers))
