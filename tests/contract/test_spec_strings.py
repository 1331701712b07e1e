"""Rules by name, spec string and subclass."""

import warnings

import pytest
import toy
from keras import ops

import bpfree
from bpfree import rules
from bpfree.errors import UserError
from bpfree.rules.rule import REGISTRY


def options(spec):
    rule, found = rules.parse(spec)
    return rule.name, found


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("dfa", ("dfa", {})),
        ("cce", ("ll", {"loss": "cce"})),
        ("mse", ("ll", {"loss": "mse"})),
        ("mse:signal_scale=2", ("ll", {"loss": "mse", "signal_scale": 2})),
        (
            "dfa:recompute=true,signal_scale=1e-2,bw_init=lecun",
            ("dfa", {"recompute": True, "signal_scale": 0.01, "bw_init": "lecun"}),
        ),
        ("dfa:recompute=False", ("dfa", {"recompute": False})),
    ],
)
def test_parse(spec, expected):
    assert options(spec) == expected


def test_get_gives_the_spec_precedence_over_options():
    rule = rules.get("dfa:bw_init=he", bw_init="lecun", seed=4)
    assert (rule.bw_init, rule.seed, rule.recompute) == ("he", 4, False)
    assert rules.get(rule) is rule


@pytest.mark.parametrize(
    "spec, message",
    [
        ("dfaa", "Unknown rule 'dfaa': did you mean 'dfa'?"),
        ("zzzz", "choose one of bp,"),
        ("dfa:recompute", "does not understand 'recompute' in 'dfa:recompute': write option=value"),
        ("dfa:colour=red", "does not understand 'colour=red'"),
        ("bp:colour=red", "(it has none)"),
        ("dfa:seed=3", "does not understand 'seed=3'"),
        ("dfa:bw_init=orto", "Unknown feedback initialiser 'orto'"),
        ("ll:loss=huber", "has the losses cce, mse, received 'huber'"),
        ("dfa:recompute=yes", "received 'recompute=yes', and recompute is true or false"),
        ("lw:beta=high", "beta is a finite number"),
        ("gait:ortho_reg=nan", "ortho_reg is a finite number"),
        ("gait:ortho_reg=1e999", "ortho_reg is a finite number"),
        ("gait:gamma=small", "lies in (0, 1], and the limit has none; received small"),
        ("fg:auxwidth=wide", "auxwidth of 'fg' is a whole number from 1, received 'wide'"),
        ("dfa:", "does not understand '' in 'dfa:'"),
        ("dfa:recompute=true,recompute=false", "recompute is given twice in 'dfa:recompute=true,"),
        ("bp,dfa", "received 'bp,dfa': repeat the flag, e.g. --algorithm=bp --algorithm=dfa."),
        ("sp:k=2.5", "k is a whole number"),
        ("lw:features=0", "features of 'lw' is at least 1"),
        ("lw:temperature=0", "needs temperature > 0"),
        ("lw:nhsic=global", "nhsic_weight > 0"),
        ("ff:threshold=width", "threshold of 'ff' is a number"),
        (3, "received 3"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(spec, message):
    with pytest.raises(UserError) as caught:
        rules.get(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_option_that_a_rule_does_not_have():
    with pytest.raises(UserError, match="Rule 'bp' has no option bw_init"):
        rules.get("bp", bw_init="ortho")


@pytest.fixture
def registry():
    """Rules that a test registers are forgotten after it."""
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


def test_a_subclass_anywhere_is_a_rule(registry):
    class Hebb(bpfree.rules.Rule):
        """Moves each block's activations along themselves: gradient −w/N h for h."""

        name = "hebb"
        aliases = {"strong": {"rate": 10.0}}

        def __init__(self, rate: float = 1.0, **kwargs):
            super().__init__(**kwargs)
            self.rate = rate

        def surrogates(self, trace):
            return [
                -self.rate / 2 * trace.batch.mean(ops.sum(h * h, axis=-1))
                for h in trace.activations
            ]

    assert "hebb" in rules.names()
    assert options("hebb:rate=3") == ("hebb", {"rate": 3})
    assert options("strong") == ("hebb", {"rate": 10.0})
    learner = toy.learner("hebb:rate=3")
    assert learner.rule.seed == learner.seed
    x, y, w = toy.batch()
    h = toy.values(learner.network.trace(x)[:1])[0]
    delta = -3 * w[:, None] / len(w) * h * (1 - h**2)
    toy.assert_close(learner.gradients(x, y, w)[:2], [x.T @ delta, delta.sum(0)])
    assert learner.rule.get_config()["rate"] == 3
    # Running a notebook's cell again defines the same class again; another of that name is a mistake.
    type("Hebb", (bpfree.rules.Rule,), {"name": "hebb", "__module__": Hebb.__module__})
    with pytest.raises(UserError, match="A rule named 'hebb' exists already"):
        type("Other", (bpfree.rules.Rule,), {"name": "hebb"})


RECONSTRUCTION = {"problem_type": "reconstruction"}


@pytest.mark.parametrize(
    "rule, options, message",
    [
        ("drtp", RECONSTRUCTION, "DRTP cannot reconstruct"),
        ("cce", RECONSTRUCTION, "cross entropy cannot reconstruct"),
        ("ll", RECONSTRUCTION, "cross entropy cannot reconstruct"),
        ("bp", {"fw_init": "aligned"}, "rule 'bp' has none"),
        ("shallow", {"fw_init": "aligned"}, "rule 'shallow' has none"),
        ("bp", {"fw_init": "zeros"}, "Zero forward weights cannot leave zero under rule 'bp'"),
        ("dfa", {"fw_init": "zeros", "activation": "relu"}, "cannot leave zero under rule 'dfa'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_built(rule, options, message):
    with pytest.raises(UserError, match=message) as caught:
        bpfree.Learner(toy.network(**options), rule)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rule, options",
    [
        ("mse", RECONSTRUCTION),
        ("dfa", RECONSTRUCTION),
        ("bp", RECONSTRUCTION),
        ("drtp", {"fw_init": "aligned"}),
        ("dfa", {"fw_init": "zeros"}),
        ("drtp", {"activation": "sigmoid"}),
        ("dfa", {"activation": "relu"}),
    ],
)
def test_what_can_work_is_not_refused(rule, options):
    bpfree.Learner(toy.network(**options), rule)


def test_a_foreign_rule_is_refused_by_its_problem_and_not_by_the_initial_weights():
    learner = toy.learner("dfa", toy.network(problem_type="reconstruction"), loss="mse")
    with pytest.raises(UserError, match="DRTP cannot reconstruct"):
        learner.gradients(*toy.batch(), rule="drtp")
    aligned = toy.learner("dfa", toy.network(fw_init="aligned"), random_weights=False)
    assert len(aligned.gradients(*toy.batch(), rule="bp")) == 6


@pytest.mark.parametrize("activation", ["relu", "swish", "linear"])
def test_drtp_warns_once_of_activations_without_bound(activation):
    with pytest.warns(UserWarning, match=f"unbounded activation '{activation}'") as caught:
        toy.learner("drtp", activation=activation)
    assert len(caught) == 1


def test_dfa_leaves_zero_weights():
    """Zero initial weights, as in Nøkland's experiments: the head's move first, then every block's."""
    learner = toy.learner("dfa", fw_init="zeros", random_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        toy.step(learner, *toy.batch())
        toy.step(learner, *toy.batch())
    assert all(abs(v).max() > 0 for v in toy.values(learner.trainable_variables))
