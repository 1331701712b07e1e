"""TensorFlow and JAX compute the same from the same weights."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import observations
import pytest


@pytest.mark.slow
def test_tensorflow_and_jax_agree(backend, tmp_path):
    """Every rule's gradients and two steps, batch normalisation and both weight decays included."""
    other = {"tensorflow": "jax", "jax": "tensorflow"}[backend]
    if find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    here, state = observations.observe()
    np.savez(tmp_path / "state.npz", **state)
    subprocess.run(
        [sys.executable, observations.__file__, tmp_path / "state.npz", tmp_path / "there.npz"],
        env={
            **os.environ,
            "KERAS_BACKEND": other,
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        },
        check=True,
    )
    with np.load(tmp_path / "there.npz") as there:
        assert sorted(there) == sorted(here)
        for name, value in here.items():
            limit = 1e-5 * max(1.0, np.abs(value).max())
            np.testing.assert_allclose(there[name], value, rtol=0, atol=limit, err_msg=name)
