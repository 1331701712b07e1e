"""What a command prints while it imports the backend: nothing, unless a GPU is left unused."""

import logging
import os
import subprocess
import sys

import pytest

from bpfree.cli import backend
from bpfree.errors import UserError

PLAIN = {k: v for k, v in os.environ.items() if k not in ("TF_CPP_MIN_LOG_LEVEL", "XLA_FLAGS")}


def stderr(code, **variables):
    command = [sys.executable, "-c", f"from bpfree.cli import backend\n{code}"]
    done = subprocess.run(command, env={**PLAIN, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.once
def test_a_command_starts_in_silence():
    """As far as the machine's own TensorFlow has something to say, it is only said when asked for."""
    if backend.gpu_exists():
        pytest.skip("a GPU's messages are not held back")
    assert stderr("backend.start(tensorflow=True)") == ""


@pytest.mark.slow
@pytest.mark.once
def test_who_sets_the_level_hears_everything():
    code = "backend.start(tensorflow=True)"
    said = stderr(code, TF_CPP_MIN_LOG_LEVEL="0", KERAS_BACKEND="tensorflow")
    assert said == "" or "port.cc" in said or "cpu_feature_guard" in said
    loud = stderr("import tensorflow; tensorflow.config.list_physical_devices()")
    assert bool(said) == bool(loud)


def test_a_gpu_that_cannot_be_used_is_told(tmp_path, monkeypatch, capfd):
    if backend.gpu_exists():
        pytest.skip("it may be usable")
    monkeypatch.setattr(backend, "_DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def told(device=None):
        backend.start(device)
        return "No GPU can be used" in capfd.readouterr().err

    assert not told() and told("gpu") and told("gpu:1")
    (tmp_path / "nvidiactl").touch()
    assert not told()
    (tmp_path / "nvidia0").touch()
    assert told() and not told("cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not told()


@pytest.mark.once
def test_other_lines_pass_also_those_of_a_crash():
    code = (
        "import os\n"
        "with backend._without(['noise']):\n"
        "    os.write(2, b'some noise\\nfirst\\n')\n"
        "    print('second', file=__import__('sys').stderr)\n"
        "os.write(2, b'noise afterwards\\n')\n"
        "try:\n"
        "    with backend._without(['noise']): raise KeyError\n"
        "except KeyError: os.write(2, b'raised\\n')\n"
    )
    assert stderr(code) == "first\nsecond\nnoise afterwards\nraised\n"
    crash = "import os\nwith backend._without(['noise']):\n    os.write(2, b'noise\\nAVX\\n'); os.abort()"
    command = [sys.executable, "-c", f"from bpfree.cli import backend\n{crash}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode < 0 and done.stderr == "AVX\n"


@pytest.mark.once
def test_only_the_warning_of_retracing_is_dropped(caplog):
    logger = logging.getLogger("tensorflow")
    logger.addFilter(backend._says_something)
    try:
        with caplog.at_level(logging.WARNING, "tensorflow"):
            logger.warning("5 out of the last 5 calls to f triggered tf.function retracing.")
            logger.warning("something else")
    finally:
        logger.removeFilter(backend._says_something)
    assert [record.getMessage() for record in caplog.records] in ([], ["something else"])


HEAVY = """
import sys
from bpfree.cli import answer, {command}
code = answer.run({command}.main, ["{command}.py", "--experiment_dir=runs"])
print(sorted({{"tensorflow", "keras", "jax", "torch"}} & set(sys.modules)), code)
"""


@pytest.mark.once
@pytest.mark.parametrize(("command", "name"), [("tune", "torch"), ("train", "foo")])
def test_a_foreign_backend_is_one_sentence_before_anything_heavy(command, name, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HEAVY.format(command=command)],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": name},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["[]", "2"], done.stderr
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in (repr(name), "tensorflow and jax", "KERAS_BACKEND"))
    assert not list(tmp_path.iterdir())


@pytest.mark.once
def test_keras_json_chooses_where_the_environment_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    backend._check_backend()
    file = tmp_path / "keras.json"
    for content in ("{", "[]", '{"floatx": "float32"}', '{"backend": "tensorflow"}'):
        file.write_text(content)
        backend._check_backend()
    file.write_text('{"backend": "numpy"}')
    with pytest.raises(UserError, match=r"keras\.json names 'numpy'"):
        backend._check_backend()
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    backend._check_backend()


@pytest.mark.once
def test_a_backend_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="jax, which is not installed.*KERAS_BACKEND=tensorflow"):
        backend._check_backend()
