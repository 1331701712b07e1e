"""What every test shares: few threads, no display, a fixed seed."""

import os
import signal
import sys
from pathlib import Path

# Before any backend is imported: several test processes share the machine's cores.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# What is compiled here runs for milliseconds: compiling is most of a test's time, and XLA's older emitters
# compile a fusion in half of it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seed():
    """Seeds Keras, Python and NumPy, where a test module imports Keras at all."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(scope="module")
def own_signals():
    """Gives TERM and HUP back after tests of commands, which take them over."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def backend() -> str:
    """The Keras backend of this run, `tensorflow` or `jax`."""
    return os.environ["KERAS_BACKEND"]


@pytest.fixture(scope="session")
def shared_tfds() -> Path:
    """A data directory in which MNIST and CIFAR-10 are prepared for TensorFlow Datasets."""
    path = ROOT.parent / "shared" / "tfds"
    if not path.is_dir():
        pytest.skip(f"no prepared data sets at {path}")
    return path
