"""Figures: what is drawn is checked against SciPy, and no global state is left behind."""

import gc
import math
import sys
import weakref

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bpfree.errors import UserError
from bpfree.reporting import (
    plot_alignment,
    plot_costs,
    plot_histories,
    plot_information_plane,
    plot_learning_rates,
    plot_probes,
    style,
)
from bpfree.reporting.metrics import label
from bpfree.tuning.objective import direction

pytestmark = pytest.mark.once


def history(rule, execution, values, **columns):
    return [
        {"project": "p", "trial": rule, "execution": execution, "epoch": epoch, "val_error": value,
         "algorithm": rule, **columns}
        for epoch, value in enumerate(values, 1)
    ]  # fmt: skip


@pytest.fixture
def frame():
    """dfa: three executions, of which one stops early and one has a NaN; bp: one."""
    rows = history("dfa", 0, [9.0, 5.0, 4.0, 3.0]) + history("dfa", 1, [8.0, 6.0, 3.0])
    rows += history("dfa", 2, [7.0, 7.0, math.nan, 5.0]) + history("bp", 0, [4.0, 2.0, 1.0, 1.0])
    return pd.DataFrame(rows)


def lines(figure, n=0):
    """Those that the legend of its n-th axes names, by name."""
    handles, names = figure.axes[n].get_legend_handles_labels()
    return dict(zip(names, handles, strict=True))


def band(figure, n, panel=0):
    vertices = figure.axes[panel].collections[n].get_paths()[0].vertices
    ends = {}
    for x, y in vertices:
        ends.setdefault(x, []).append(y)
    return {x: (min(ys), max(ys)) for x, ys in ends.items()}


def test_a_curve_is_the_mean_over_executions(frame):
    figure = plot_histories(frame)
    assert isinstance(figure, Figure)
    assert list(lines(figure)) == ["bp (n=1)", "dfa (n=3)"]
    x, y = lines(figure)["dfa (n=3)"].get_data()
    np.testing.assert_array_equal(x, [1, 2, 3, 4])
    np.testing.assert_array_equal(y, [8.0, 6.0, math.nan, math.nan])
    [faint] = [line for line in figure.axes[0].lines if line.get_alpha()]
    np.testing.assert_array_equal(faint.get_ydata(), [8.0, 6.0, 3.5, 4.0])
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "validation error (%)")
    assert axes.get_legend().get_title().get_text() == "learning rule"


@pytest.mark.parametrize("spread", ["interval", "std", "range"])
def test_the_band_is_the_spread(frame, spread):
    figure = plot_histories(frame, spread=spread)
    values = np.array([9.0, 8.0, 7.0])
    expected = {
        "interval": scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values)),
        "std": (values.mean() - values.std(ddof=1), values.mean() + values.std(ddof=1)),
        "range": (7.0, 9.0),
    }[spread]
    assert band(figure, 1)[1.0] == pytest.approx(expected, rel=1e-12)


def test_groups_of_several_columns_are_told_apart():
    rows = [
        row
        for rule in ("dfa", "bp")
        for lr in (0.1, 0.01)
        for row in history(rule, lr, [1.0, 2.0], lr=lr, bw_init=None)
    ]
    figure = plot_histories(pd.DataFrame(rows), by=["algorithm", "lr", "bw_init"])
    assert list(lines(figure)) == [
        "bp, 0.01, none (n=1)", "bp, 0.1, none (n=1)",
        "dfa, 0.01, none (n=1)", "dfa, 0.1, none (n=1)",
    ]  # fmt: skip
    drawn = [(line.get_color(), line.get_linestyle()) for line in lines(figure).values()]
    assert len(set(drawn)) == 4
    assert drawn[0][0] == drawn[1][0] != drawn[2][0] == drawn[3][0]
    assert drawn[0][1] == drawn[2][1] != drawn[1][1] == drawn[3][1]


def test_a_rule_looks_the_same_in_every_figure(frame):
    alone = plot_histories(frame[frame["algorithm"] == "dfa"])
    beside = plot_histories(frame)
    color = {lines(figure)["dfa (n=3)"].get_color() for figure in (alone, beside)}
    assert color == {style.rule_look("dfa")["color"]}


def test_no_two_rules_look_alike():
    looks = {tuple(style.rule_look(rule).values()) for rule in style.RULES}
    assert len(looks) == len(style.RULES) == 24
    assert style.RULES[:8] == ("bp", "shallow", "dfa", "sdfa", "drtp", "cce", "mse", "ll")
    okabe_ito = {"#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00",
                 "#cc79a7", "#999999"}  # fmt: skip
    assert {to_hex(color) for color in style.PALETTE} <= okabe_ito
    assert style.rule_look("fg:guess=local") == style.rule_look("fg")
    assert style.rule_look("my_rule") == style.rule_look("my_rule")


def test_rules_have_a_fixed_order_and_plugins_follow():
    rules = ["mine", "ll", "dfa", "fg:guess=local", "shallow", "bp", None, "drtp"]
    ordered = [rule for (rule,) in style.in_order([(rule,) for rule in rules])]
    assert ordered == ["bp", "shallow", "dfa", "drtp", "ll", "fg:guess=local", "mine", None]


def test_one_rule_with_two_options_has_two_lines():
    rows = history("fg:guess=local", 0, [1.0, 2.0]) + history("fg:guess=global", 0, [2.0, 3.0])
    drawn = lines(plot_histories(pd.DataFrame(rows))).values()
    assert len({line.get_color() for line in drawn}) == 1
    assert len({line.get_linestyle() for line in drawn}) == 2


def test_numbers_are_in_the_order_of_their_size():
    rows = [row for lr in (1.0, 1e-4, 0.1) for row in history("dfa", lr, [1.0], lr=lr)]
    figure = plot_histories(pd.DataFrame(rows), by="lr")
    assert list(lines(figure)) == ["0.0001 (n=1)", "0.1 (n=1)", "1 (n=1)"]
    assert all(line.get_marker() == "o" for line in lines(figure).values())  # a point shows


def test_projects_that_do_not_measure_it_do_not_count(frame):
    other = pd.DataFrame(history("dfa", 0, [math.nan, math.nan])).assign(project="reconstruction")
    figure = plot_histories(pd.concat([frame, other]))
    assert list(lines(figure)) == ["bp (n=1)", "dfa (n=3)"]


def test_a_figure_draws_headless_and_without_pyplot(frame, tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    for n in range(3):
        plot_histories(frame).savefig(tmp_path / f"{n}.png")
    plot_histories(frame).savefig(tmp_path / "x.pdf")
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_figures_are_not_kept_alive(frame):
    figure = weakref.ref(plot_histories(frame))
    gc.collect()
    assert figure() is None


def test_axes_of_the_user_s_are_drawn_into(frame):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot_histories(frame, ax=right) is figure
    assert right.lines and not left.lines
    assert plot_learning_rates(rates(), ax=left) is figure and left.lines


def rates():
    """bp has two architectures at 0.001; an execution of each rule diverges at 0.1."""
    values = {
        ("bp", 0.001, "a"): [5.0, 6.0, 7.0], ("bp", 0.001, "b"): [3.0, 4.0, 8.0],
        ("bp", 0.01, "a"): [2.0, 3.0, 4.0], ("bp", 0.1, "a"): [0.0, 1.0, math.nan],
        ("dfa", 0.001, "a"): [4.0, 4.0, 4.0], ("dfa", 0.01, "a"): [6.0, 5.0, 4.0],
        ("dfa", 0.1, "a"): [math.inf, 1.0, math.nan],
    }  # fmt: skip
    rows = [
        {"project": "p", "trial": f"{rule}{lr}{arch}", "execution": k, "state": "completed",
         "finished": True, "algorithm": rule, "lr": lr, "arch": arch, "val_error": error,
         "val_accuracy": -error}
        for (rule, lr, arch), errors in values.items()
        for k, error in enumerate(errors)
    ]  # fmt: skip
    unfinished = {**rows[0], "execution": 9, "finished": False, "val_error": math.nan}
    return pd.DataFrame([*rows, unfinished])


@pytest.mark.parametrize(("metric", "sign"), [("val_error", 1), ("val_accuracy", -1)])
def test_learning_rates_show_the_best_trial_with_its_interval(metric, sign):
    figure = plot_learning_rates(rates(), metric)
    axes = figure.axes[0]
    assert list(lines(figure)) == ["bp (n=3)", "dfa (n=3)"]
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "learning rate"
    bars = lines(figure)
    x, y = np.asarray(bars["bp (n=3)"].lines[0].get_data(), float)
    np.testing.assert_array_equal(x, [0.001, 0.01, 0.1])
    np.testing.assert_array_equal(sign * y, [5.0, 3.0, math.nan])
    y = np.asarray(bars["dfa (n=3)"].lines[0].get_ydata(), float)
    np.testing.assert_array_equal(sign * y, [4.0, 5.0, math.nan])
    [segments] = bars["bp (n=3)"].lines[2]
    low, high = scipy.stats.t.interval(0.95, 2, 3.0, scipy.stats.sem([2.0, 3.0, 4.0]))
    ends = sorted(sign * segments.get_segments()[1][:, 1])
    assert ends == pytest.approx([low, high], rel=1e-12)
    stars = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "*"]
    assert stars == [[[0.01, sign * 3.0]], [[0.001, sign * 4.0]]]


def test_learning_rates_of_single_executions():
    frame = rates()
    drawn = lines(plot_learning_rates(frame[frame["execution"] == 0]))
    assert list(drawn) == ["bp (n=1)", "dfa (n=1)"]


def test_a_rule_that_always_diverges_has_no_learning_rate():
    frame = rates()
    frame = frame[(frame["algorithm"] == "bp") | (frame["lr"] == 0.1)]
    assert list(lines(plot_learning_rates(frame))) == ["bp (n=3)"]


@pytest.mark.parametrize("state", ["failed", "running"])
def test_what_is_left_of_a_trial_that_is_not_completed_is_not_drawn(state):
    """One seed of three has a result at 1.0: the other two diverged, or are still to come."""
    frame = rates()
    good = frame[frame["trial"] == "bp0.01a"].iloc[:1]
    left = good.assign(trial="left", state=state, lr=1.0, val_error=0.5, seconds=1.0)
    frame = pd.concat([frame.assign(seconds=2.0), left])
    axes = plot_learning_rates(frame).axes[0]
    assert 1.0 not in lines(axes.figure)["bp (n=3)"].lines[0].get_xdata()
    assert [0.01, 3.0] in [line.get_xydata()[0].tolist() for line in axes.lines]
    cloud = plot_costs(frame, cost="seconds").axes[0].lines[0]
    assert sorted(cloud.get_xydata().tolist()) == [[2.0, 3.0], [2.0, 5.0], [2.0, 6.0]]


@pytest.mark.parametrize(
    ("plot", "arguments", "message"),
    [
        (plot_histories, {"metric": "val_eror"}, "no column 'val_eror': choose one of project, "),
        (plot_histories, {"by": "rule"}, "no column 'rule': choose one of .*, algorithm, "),
        (plot_histories, {"by": ["lr", "rule"]}, "no column 'rule'"),
        (plot_histories, {"metric": "algorithm"}, "Column 'algorithm' holds no number yet"),
        (plot_histories, {"spread": "sem"}, "spread 'sem': choose one of interval, std, range"),
        (plot_learning_rates, {"metric": "x"}, "no column 'x': choose one of project, "),
        (plot_learning_rates, {"metric": "arch"}, "Column 'arch' holds no number yet"),
    ],
)
def test_what_cannot_be_drawn_gets_a_sentence(plot, arguments, message):
    frame = rates().assign(epoch=1)
    with pytest.raises(UserError, match=message) as caught:
        plot(frame, **arguments)
    assert str(caught.value).endswith(".")


def test_empty_frames_get_a_sentence(frame):
    with pytest.raises(UserError, match="no rows"):
        plot_histories(frame[:0])
    with pytest.raises(UserError, match="holds no number"):
        plot_learning_rates(rates().assign(finished=False))


def costly(metric="val_error"):
    """dfa: four trials of two executions, of which the third is dominated; bp: one, never measured."""
    points = [("dfa", 0, 10, 9.0), ("dfa", 1, 20, 5.0), ("dfa", 2, 30, 6.0), ("dfa", 3, 40, 4.0),
              ("dfa", 4, 40, 8.0), ("bp", 5, math.nan, 1.0)]  # fmt: skip
    return pd.DataFrame(
        {"project": "p", "trial": f"{trial}", "execution": k, "algorithm": rule,
         "state": "completed", "finished": True, "energy": cost + 2 * k,
         metric: value + (2 * k - 1) * 0.5}
        for rule, trial, cost, value in points for k in range(2)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "front"),
    [("val_error", [[11, 9.0], [21, 5.0], [41, 4.0]]), ("val_accuracy", [[11, 9.0]])],
)
def test_costs_show_every_trial_and_the_front_of_each_rule(metric, front):
    [ax] = plot_costs(costly(metric), cost="energy", metric=metric).axes
    cloud, line = ax.lines
    points = [[11, 9.0], [21, 5.0], [31, 6.0], [41, 4.0], [41, 8.0]]
    assert sorted(cloud.get_xydata().tolist()) == points
    assert line.get_xydata().tolist() == front
    assert ax.get_xlabel() == "energy (J)" and ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["dfa"]


def test_a_cost_that_was_not_measured_gets_a_sentence():
    with pytest.raises(UserError, match="energy was not measured"):
        plot_costs(costly().assign(energy=math.nan), cost="energy")
    with pytest.raises(UserError, match="no column 'joules'"):
        plot_costs(costly(), cost="joules")


@pytest.mark.parametrize(
    ("name", "words", "higher"),
    [
        ("val_error", "validation error (%)", False),
        ("error", "training error (%)", False),
        ("test_error", "test error (%)", False),
        ("loss", "training loss", False),
        ("val_accuracy", "validation accuracy", True),
        ("bp_cosine/block_1", "bp cosine, block 1", True),
        ("lr", "learning rate", False),
        ("seconds", "time (s)", False),
        ("train_flops", "training FLOPs", False),
        ("energy", "energy (J)", False),
    ],
)
def test_columns_have_names_in_words(name, words, higher):
    assert label(name) == words and (direction(name) == "max") == higher


def test_an_error_of_reconstruction_has_no_per_cent():
    assert label("val_error", "reconstruction") == "validation RMS error per pixel"
    assert label("val_loss", "reconstruction") == "validation loss"


def course(rule, execution, epochs, blocks=(1, 2)):
    """Columns of which every value says where it is from: x = 10 block + epoch, y = x² / 100."""
    rows = []
    for epoch in range(1, epochs + 1):
        row = {"project": "p", "trial": rule, "execution": execution, "algorithm": rule}
        row["epoch"] = epoch
        for block in blocks:
            x = 10 * block + epoch + execution
            row |= {f"nhsic_x/block_{block}": x, f"nhsic_y/block_{block}": x**2 / 100}
            row[f"linear_probe/block_{block}"] = x / 2
            row[f"bp_cosine/block_{block}"] = x / 100
        rows.append(row)
    return rows


@pytest.fixture
def looked_at():
    """dfa: two executions, of which one stops early; bp: one, whose third block was measured too."""
    rows = course("dfa", 0, 4) + course("dfa", 2, 3) + course("bp", 0, 4, blocks=(1, 2, 3))
    return pd.DataFrame(rows)


def panels(figure):
    return {ax.get_title(): ax for ax in figure.axes if ax.get_title()}


def test_the_information_plane_shows_the_mean_course_of_each_block(looked_at):
    figure = plot_information_plane(looked_at)
    assert list(panels(figure)) == ["block 1", "block 2", "block 3"]
    segments = panels(figure)["block 2"].collections[1].get_segments()
    points = np.array([segments[0][0], *(end for _, end in segments)])
    one, two = (np.array([20.0 + epoch + k for epoch in (1, 2, 3)]) for k in (0, 2))
    np.testing.assert_allclose(points[:, 0], (one + two) / 2)
    np.testing.assert_allclose(points[:, 1], (one**2 + two**2) / 200)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["bp (n=1)", "dfa (n=2)"]
    assert len(panels(figure)["block 3"].collections) == 1
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("nHSIC(X; Z)", "nHSIC(Y; Z)")
    low, high = panels(figure)["block 1"].get_xlim()
    assert low < 11 and high > 34


def test_the_information_plane_darkens_from_the_first_epoch_to_the_last(looked_at):
    figure = plot_information_plane(looked_at, blocks=[1])
    assert list(panels(figure)) == ["block 1"]
    lines = panels(figure)["block 1"].collections[1]
    brightness = lines.get_colors()[:, :3].sum(axis=1)
    assert (np.diff(brightness) < 0).all()
    start, end = panels(figure)["block 1"].lines[2:]
    np.testing.assert_allclose(start.get_xydata(), [[12, (11**2 + 13**2) / 200]])
    np.testing.assert_allclose(end.get_xydata(), [[14, (13**2 + 15**2) / 200]])
    assert start.get_markerfacecolor() == "white"
    last_of_all = panels(figure)["block 1"].lines[1]
    assert to_hex(last_of_all.get_color()).upper() == style.rule_look("bp")["color"]
    bar = figure.axes[-1]
    assert bar.get_ylabel() == "epoch"
    ticks = [text.get_text() for text in bar.get_yticklabels()]
    assert (ticks[0], ticks[-1]) == ("1", "4")


def test_alignment_has_a_panel_for_every_block_and_the_head(looked_at):
    looked_at["bp_cosine/head"] = 1.0
    figure = plot_alignment(looked_at)
    assert list(panels(figure)) == ["block 1", "block 2", "block 3", "head"]
    second = lines(figure, 1)
    assert list(second) == ["bp (n=1)", "dfa (n=2)"]
    np.testing.assert_allclose(second["bp (n=1)"].get_ydata(), [0.21, 0.22, 0.23, 0.24])
    np.testing.assert_allclose(second["dfa (n=2)"].get_ydata()[:3], [0.22, 0.23, 0.24])
    values = np.array([0.21, 0.23])
    expected = scipy.stats.t.interval(0.95, 1, values.mean(), scipy.stats.sem(values))
    assert band(figure, 1, 1)[1.0] == pytest.approx(expected, rel=1e-9)
    assert list(lines(figure, 2)) == ["bp (n=1)"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["bp (n=1)", "dfa (n=2)"]
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("epoch", "bp cosine")
    low, high = panels(figure)["head"].get_ylim()
    assert -1 <= low <= 0 and high == pytest.approx(1.05)


def test_alignment_of_weights_may_begin_with_the_second_block(looked_at):
    looked_at["weight_alignment/block_2"] = -0.5
    figure = plot_alignment(looked_at, "weight_alignment", spread="range")
    assert list(panels(figure)) == ["block 2"]
    low, high = panels(figure)["block 2"].get_ylim()
    assert -1 < low < -0.5 and 0 <= high < 0.1


@pytest.mark.parametrize("metric", ["linear_probe", "other"])
def test_a_view_of_what_is_no_cosine_holds_its_values(looked_at, metric):
    """Probes have 5.5 to 17 % and the others their negatives; intervals of two reach far beyond."""
    for block in (1, 2, 3):
        looked_at[f"other/block_{block}"] = -looked_at[f"linear_probe/block_{block}"]
    figure = plot_alignment(looked_at, metric)
    ends = figure.axes[0].get_ylim()
    assert sorted(map(abs, ends)) == pytest.approx([0, 1.05 * 17])
    for panel in range(3):
        for line in lines(figure, panel).values():
            values = line.get_ydata()[:3]
            assert ((ends[0] < values) & (values < ends[1])).all()


def test_cosines_may_be_beyond_1_by_rounding(looked_at):
    looked_at["bp_cosine/head"] = np.nextafter(1.0, 2.0)
    assert plot_alignment(looked_at).axes[0].get_ylim()[1] == pytest.approx(1.05)


def test_probes_are_drawn_over_depth_at_the_last_epoch(looked_at):
    figure = plot_probes(looked_at)
    bars = lines(figure)
    assert list(bars) == ["bp (n=1)", "dfa (n=2)"]
    x, y = (np.asarray(values, float) for values in bars["dfa (n=2)"].lines[0].get_data())
    np.testing.assert_array_equal(np.round(x), [1, 2])
    np.testing.assert_allclose(y, [(14 + 15) / 4, (24 + 25) / 4])
    [segments] = bars["dfa (n=2)"].lines[2]
    low, high = scipy.stats.t.interval(0.95, 1, 7.25, scipy.stats.sem([7.0, 7.5]))
    assert sorted(segments.get_segments()[0][:, 1]) == pytest.approx([low, high], rel=1e-9)
    assert list(bars["bp (n=1)"].lines[0].get_ydata()) == [7, 12, 17]
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("block", "error of a linear probe (%)")
    assert list(axes.get_xticks()) == [1, 2, 3]


def test_probes_of_a_chosen_epoch_in_axes_of_the_user_s(looked_at):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot_probes(looked_at, epoch=4, ax=right) is figure and not left.lines
    assert list(lines(figure, 1)) == ["bp (n=1)", "dfa (n=1)"]
    assert list(lines(figure, 1)["dfa (n=1)"].lines[0].get_ydata()) == [7, 12]


def test_figures_of_blocks_draw_without_pyplot(looked_at, tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    plot_information_plane(looked_at[looked_at["epoch"] == 1]).savefig(tmp_path / "x.png")
    plot_information_plane(looked_at).savefig(tmp_path / "x.pdf")
    plot_probes(looked_at).savefig(tmp_path / "y.png")
    plot_alignment(looked_at).savefig(tmp_path / "z.pdf")
    assert ("matplotlib.pyplot" in sys.modules) == before


@pytest.mark.parametrize(
    ("plot", "arguments", "message"),
    [
        (plot_information_plane, {"by": "rule"}, "no column 'rule'"),
        (
            plot_information_plane,
            {"blocks": [1, 4]},
            "no block 4 with values: choose among 1, 2, 3",
        ),
        (plot_alignment, {"by": "rule"}, "no column 'rule'"),
        (plot_alignment, {"spread": "sem"}, "spread 'sem': choose one of interval, std, range"),
        (plot_probes, {"by": "rule"}, "no column 'rule'"),
        (plot_probes, {"epoch": 5}, "no rows"),
    ],
)
def test_what_no_block_has_gets_a_sentence(looked_at, plot, arguments, message):
    with pytest.raises(UserError, match=message):
        plot(looked_at, **arguments)


def test_runs_without_the_trackers_get_a_sentence(frame):
    with pytest.raises(UserError, match="no nhsic_x/block_1: train with --tracker nhsic"):
        plot_information_plane(frame)
    with pytest.raises(UserError, match="no bp_cosine/block_1: train with --tracker bp_cosine"):
        plot_alignment(frame)
    with pytest.raises(
        UserError, match="no linear_probe/block_1: train with --tracker linear_probe"
    ):
        plot_probes(frame)
