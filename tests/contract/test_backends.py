"""TensorFlow and JAX compute the same from the same weights."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve()


@pytest.mark.slow
@pytest.mark.once
def test_tensorflow_and_jax_agree(tmp_path):
    """Every rule's gradients and two steps, batch normalisation and both weight decays included."""
    if missing := [name for name in ("tensorflow", "jax") if find_spec(name) is None]:
        pytest.skip(f"{missing[0]} is not installed")

    def observed(backend, *given):
        script, out = HERE.with_name("observations.py"), tmp_path / f"{backend}.npz"
        environment = {"KERAS_BACKEND": backend, "PYTHONPATH": str(HERE.parents[2])}
        subprocess.run(
            [sys.executable, script, out, tmp_path / "state.npz", *given],
            env={**os.environ, **environment},
            check=True,
        )
        return dict(np.load(out))

    here, there = observed("tensorflow"), observed("jax", "--given")
    assert sorted(there) == sorted(here)
    for name, value in here.items():
        limit = 1e-5 * max(1.0, np.abs(value).max())
        np.testing.assert_allclose(there[name], value, rtol=0, atol=limit, err_msg=name)
