"""tune.py --dry_run: what it says of a grid is counted by hand here, and it writes nothing."""

import re

import pytest

from bpfree.cli import answer, plan, train, tune

pytestmark = pytest.mark.usefixtures("own_signals")

GRID = ["--algorithm=bp", "--algorithm=dfa", "--arch=8", "--arch=9", "--activation=tanh"]
GRID += ["--nobatch_norm", "--reg_rate=0", "--reg_rate=0.1", "--lr=0.1", "--lr=0.01", "--lr=0.001"]
GRID += ["--use_xla=false", "--num_epochs=7", "--executions_per_trial=2", "--batch_size=100"]


def run(command, *arguments):
    return answer.run(command.main, ["program.py", *arguments])


@pytest.fixture
def paced(monkeypatch):
    """No training: a step takes 2 s and compiling 1000 s; what is timed is listed."""
    timed = []

    def measure(hypermodel, data, regime, values):
        timed.append((values["algorithm"], values["arch"]))
        return plan.Pace(2.0, 1000.0)

    monkeypatch.setattr(plan, "measure", measure)
    return timed


@pytest.mark.once
def test_the_grid_is_counted_and_every_network_timed_once(paced, capsys):
    assert run(tune, "--dry_run", *GRID) == 0
    out = capsys.readouterr().out
    # bp: 2 networks × 2 dropout rates × 3 lr; dfa: twice that, for two feedback initialisers.
    assert "36 trials × 2 executions = 72 trainings, each of 7 epochs on 1294 examples:" in out
    assert paced == [("bp", "8"), ("bp", "9"), ("dfa", "8"), ("dfa", "9")]
    assert "  algorithm: bp, dfa\n  arch: 8, 9\n" in out
    assert "  bw_init: ortho, lecun (of dfa only)\n" in out
    assert "  lr: 0.1, 0.01, 0.001\n" in out
    assert re.search(r"  fixed: activation tanh, batch_norm False, .*batch_size 100", out)
    assert "Left out" not in out


@pytest.mark.once
def test_the_estimate_counts_steps_and_what_is_compiled_anew(paced, capsys):
    run(tune, "--dry_run", *GRID)
    out = capsys.readouterr().out
    # 12 steps of 100 examples, 7 epochs, 2 executions, 2 s: 336 s a trial. A program serves all
    # rates; another dropout rate than 0, or another feedback initialiser, is another program.
    bp, dfa = 6 * 336 + 2 * 1000, 12 * 336 + 4 * 1000
    assert f"bp 8: 2e+03 ms a step, 1e+03 s to compile, 12 trainings, {bp / 60:.0f} min" in out
    assert f"dfa 9: 2e+03 ms a step, 1e+03 s to compile, 24 trainings, {dfa // 3600} h" in out
    total = round(2 * (bp + dfa) / 60)
    assert f"About {total // 60} h {total % 60:02d} min in all" in out


@pytest.mark.once
@pytest.mark.parametrize(
    ("search", "said", "share"),
    [
        (["--max_trials=9"], "9 trials × 2 executions = 18 trainings", None),
        (
            ["--search=random", "--max_trials=9"],
            "9 trials × 2 executions, chosen at random",
            9 / 36,
        ),
        # Of 9 random points for each rule, three for arch, lr and reg_rate, 5 are half of 20 trials.
        (
            ["--search=bayesian", "--max_trials=20"],
            "20 trials × 2 executions, 5 of each rule at random and the others by the outcomes of",
            20 / 36,
        ),
        # Of each rule 5 until epoch 3, the best 2 until 7; then 3 until 7.
        (
            ["--search=hyperband"],
            "  5 until epoch 3, the best 2 until epoch 7\n  3 until epoch 7\n",
            2 * (5 * 3 + 2 * 4 + 3 * 7) / (36 * 7),
        ),
    ],
    ids=["grid", "random", "bayesian", "hyperband"],
)
def test_what_is_known_before_of_other_searches(search, said, share, paced, capsys):
    assert run(tune, "--dry_run", *GRID, *search) == 0
    out = capsys.readouterr().out
    assert said in out
    shown = re.search(r"The search is (\d+)% of these epochs", out)
    assert (shown and int(shown[1])) == (share and round(100 * share))
    assert ("The whole grid would be 36 trials" in out) == (search[0] != "--max_trials=9")


@pytest.mark.once
def test_what_is_left_out_has_its_reason(paced, capsys):
    grid = [flag for flag in GRID if not flag.startswith("--algorithm=dfa")]
    run(tune, "--dry_run", "--problem_type=reconstruction", "--algorithm=drtp", *grid)
    out = capsys.readouterr().out
    assert "12 trials × 2" in out
    assert re.search(r"Left out, 24 combinations: .*reconstruct.*\.\n", out)
    assert {rule for rule, _ in paced} == {"bp"}


def test_what_cannot_be_built_is_said_and_the_rest_is_shown(capsys):
    """Digits have 8 × 8 pixels, and this VGG halves them four times: of 2 × 2 networks, 2 work."""
    grid = ["--algorithm=bp", "--algorithm=dfa", "--arch=vgg6b:width=0.1", "--arch=8", "--lr=0.1"]
    grid += ["--lr=0.01", "--activation=relu", "--nobatch_norm", "--reg_rate=0", "--bw_init=ortho"]
    assert run(tune, "--dry_run", "--use_xla=false", "--executions_per_trial=2", *grid) == 0
    out = capsys.readouterr().out
    assert "8 trials × 2 executions = 16 trainings" in out
    for rule in ("bp", "dfa"):
        said = (
            rf"  {rule} vgg6b:width=0.1: cannot be built, 2 trials will fail: .*16 by 16 pixels.*\n"
        )
        assert re.search(said, out)
        assert re.search(rf"  {rule} 8: \S+ ms a step, .* 4 trainings, ", out)
    assert re.search(r"About .* in all", out) and out.endswith("Nothing was written.\n")


def test_it_trains_a_little_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "runs" / "digits_classification_val_loss-0"
    kept.mkdir(parents=True)
    one = ["--algorithm=dfa", "--arch=8", "--activation=tanh", "--nobatch_norm", "--bw_init=ortho"]
    one += ["--lr=0.1", "--reg_rate=0", "--use_xla=false", "--reset_training"]
    assert run(tune, "--dry_run", "--experiment_dir=runs", *one) == 0
    out = capsys.readouterr().out
    step, compiling = map(float, re.search(r"dfa 8: (\S+) ms a step, (\S+) s to", out).groups())
    assert step > 0 and compiling > 0
    assert "1 trials" not in out and out.endswith("Nothing was written.\n")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs", kept]


@pytest.mark.once
@pytest.mark.parametrize(
    ("command", "flags", "named"),
    [(train, ["--lr=0.1"], "--dry_run"), (tune, ["--lr=-1"], "lr"), (tune, ["--arch=5o0"], "5o0")],
)
def test_mistakes_are_still_mistakes(command, flags, named, capsys):
    assert run(command, "--dry_run", *flags) == 2
    shown = capsys.readouterr()
    assert named in shown.err and shown.out == ""
