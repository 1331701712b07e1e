"""The sources of data: digits, npz, folder, TensorFlow Datasets."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from bpfree import data
from bpfree.data import folder
from bpfree.errors import UserError

pytestmark = pytest.mark.once

# ---------------------------------------------------------------- names


def test_plain_names():
    assert data.names() == [
        *("digits", "mnist", "fmnist", "kmnist", "cifar10", "cifar100"),
        *("eurosat", "imagenet32", "caltech256"),
    ]


@pytest.mark.parametrize("name", ["digits", "tfds:svhn_cropped", "npz:a.npz", "folder:/a:b"])
def test_known_names(name):
    assert data.check_name(name) == name


@pytest.mark.parametrize("name", ["mnsit", "", "npz:", "tfds", "hdf5:a", None])
def test_unknown_names_get_one_sentence(name):
    with pytest.raises(UserError, match=r"^Unknown dataset .*: use one of digits, .*npz:<path>\.$"):
        data.check_name(name)
    with pytest.raises(UserError, match="^Unknown dataset"):
        data.load(name)


def test_names_are_checked_and_files_read_without_heavy_imports(tmp_path):
    """digits, npz and folder work where neither TensorFlow nor TFDS nor Keras can be imported."""
    np.savez(tmp_path / "a.npz", x=np.zeros((40, 3)), y=np.arange(40) % 2)
    images(tmp_path / "f", {"a": 10, "b": 10})
    code = f"""
import sys
from bpfree import data
data.check_name("mnist")
assert not {{"sklearn", "PIL"}} & set(sys.modules)
for name in "tensorflow", "tensorflow_datasets", "keras", "jax":
    assert name not in sys.modules
    sys.modules[name] = None
for name in "digits", r"npz:{tmp_path}/a.npz", r"folder:{tmp_path}/f":
    data.load(name)
try:
    data.load("mnist")
except data.catalog.UserError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("mnist needs TensorFlow Datasets")
    assert out.stdout.count("\n") == 1


# ---------------------------------------------------------------- digits


def test_digits_are_rescaled_images():
    dataset = data.load("digits", validation=0.2)
    assert dataset.input_shape == (8, 8, 1) and dataset.classes == 10 and dataset.name == "digits"
    assert dataset.x_train.dtype == np.uint8
    x = np.concatenate([dataset.x_train, dataset.x_val, dataset.x_test])
    assert len(x) == 1797 and len(dataset.x_test) == 359
    # 0 … 16 in steps of 255 / 16 = 15.94, rounded by hand
    steps = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    assert np.unique(x).tolist() == steps
    wanted = np.array(steps)[load_digits().images.astype(int)]
    assert sorted(map(bytes, x[..., 0])) == sorted(map(bytes, wanted.astype(np.uint8)))


# ---------------------------------------------------------------- npz


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_npz_splits_are_kept(tmp_path, rng):
    x, y = rng.normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3
    name = save(
        tmp_path / "a.npz",
        **{"x_train": x[:20], "y_train": y[:20], "x_test": x[20:25], "y_test": y[20:25]},
        **{"x_val": x[25:], "y_val": y[25:]},
    )
    dataset = data.load(name)
    assert (dataset.x_train == x[:20]).all() and dataset.x_train.dtype == np.float32
    assert (dataset.x_test == x[20:25]).all() and (dataset.x_val == x[25:]).all()
    assert dataset.classes == 3 and dataset.input_shape == (4,)


def test_npz_without_test_split_gets_a_fixed_one(tmp_path):
    name = save(tmp_path / "a.npz", x=np.arange(100.0)[:, None], y=np.arange(100) % 2)
    first, second = data.load(name, seed=0), data.load(name, seed=1)
    assert len(first.x_test) == 20 and (first.x_test == second.x_test).all()
    assert (first.x_val != second.x_val).any()


@pytest.mark.parametrize(
    ("shape", "dtype", "wanted"),
    [
        ((8, 5, 5), np.uint8, (5, 5, 1)),
        ((8, 5, 5, 3), np.uint8, (5, 5, 3)),
        ((8, 5, 5), np.float64, (5, 5)),
        ((8, 5), np.uint8, (5,)),
    ],
)
def test_npz_uint8_images_get_a_channel_axis_and_nothing_else_does(tmp_path, shape, dtype, wanted):
    x, y = np.ones(shape, dtype), np.arange(8)[:, None] % 2
    dataset = data.load(
        save(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y), None, 0, 0
    )
    assert dataset.input_shape == wanted and dataset.x_train.dtype == dtype
    assert dataset.y_train.shape == (8,)


def test_npz_is_read_anew_when_it_changes(tmp_path):
    for value in (1, 2):
        name = save(tmp_path / "a.npz", x=np.full((20, 2), value), y=np.arange(20) % 2)
        assert (data.load(name).x_train == value).all()


X, INTS = np.zeros((4, 2)), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"images": X}, "holds no array named x… or y…: it needs x_train and y_train, or x and y"),
        ({"x_train": X}, "holds x_train: x_train and y_train go together"),
        ({"x": X, "y": INTS, "x_test": X}, "x_test and y_test go together"),
        ({"x": X, "y": INTS / 2}, "labels must be integers"),
        ({"x": X, "y": INTS - 1}, "y in .* holds the label -1: labels count from 0"),
        ({"x": X, "y": np.eye(4, dtype=int)}, "labels must be integers"),
        ({"x": X, "y": INTS[:0]}, "y in .* has no rows"),
        ({"x": X[:3], "y": INTS}, "one row for each of the 4 labels"),
        ({"x": X[:, 0], "y": INTS}, "two dimensions or more"),
        ({"x": X.astype(str), "y": INTS}, "it must hold numbers"),
        ({"x": X * np.nan, "y": INTS}, "holds NaN or infinity"),
        ({"x": X, "y": INTS * 0}, "has the label 0 only"),
        ({"x": X, "y": INTS, "x_test": X[:, :1], "y_test": INTS}, r"shapes \(1,\), \(2,\)"),
        ({"x": X, "y": INTS, "x_test": X.astype("u1"), "y_test": INTS}, "types float64, uint8"),
        ({"x": np.array([[1, None]]), "y": INTS}, "without pickled objects"),
    ],
)
def test_npz_mistakes_get_one_sentence(tmp_path, arrays, sentence):
    with pytest.raises(UserError, match=rf"{sentence}[^\n]*\.$"):
        data.load(save(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"\x80\x04N."])
def test_unreadable_npz_gets_one_sentence(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^Cannot read {path} \(\w+\): give an .npz file"):
        data.load(f"npz:{path}")


def test_missing_npz_gets_one_sentence(tmp_path):
    with pytest.raises(
        UserError, match=rf"^There is no file {tmp_path}/a.npz: give an .npz file.$"
    ):
        data.load(f"npz:{tmp_path}/a.npz")


@pytest.mark.parametrize(
    ("train", "test", "sentence"),
    [
        ([0, 100, 200, 300], [0], "are 4 of the 301 classes from 0 to 300: number the classes"),
        ([0, 1, 0, 1], [1, 3], "are 2 of the 4 classes.*the labels 3 occur in other splits only"),
        ([0, 1], range(9), "the labels 2, 3, 4, 5, 6, … occur"),
    ],
)
def test_npz_labels_that_training_lacks_are_warned_of(tmp_path, train, test, sentence):
    arrays = {"y_train": np.array(train), "y_test": np.array(test)}
    x = {key.replace("y", "x"): np.zeros((len(y), 2)) for key, y in arrays.items()}
    with pytest.warns(UserWarning, match=sentence) as caught:
        data.load(save(tmp_path / "a.npz", **arrays, **x), validation=0)
    assert len(caught) == 1


def test_npy_array_is_no_npz(tmp_path):
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(UserError, match="^Cannot read"):
        data.load(f"npz:{tmp_path}/a.npy")


# ---------------------------------------------------------------- folder


def images(root, counts, size=(20, 10), colour=(200, 0, 0), suffix=".png"):
    """A folder of images per class, of the given size in pixels (width, height)."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", size, (*colour[:2], k)).save(root / name / f"{k}{suffix}")
    return root


def test_folder_classes_are_the_sorted_sub_folders(tmp_path):
    root = images(tmp_path, {"zebra": 10, "ant": 20, ".hidden": 3})
    (root / "notes.txt").write_text("beside the classes")
    (root / "ant" / "notes.txt").write_text("no image")
    (root / "ant" / ".DS_Store").write_bytes(b"\0")
    dataset = data.load(f"folder:{root}", validation=0.25)
    assert dataset.classes == 2 and dataset.input_shape == (64, 64, 3)
    assert dataset.x_train.dtype == np.uint8
    y = np.concatenate([dataset.y_train, dataset.y_val, dataset.y_test])
    assert np.bincount(y).tolist() == [20, 10]
    # blue numbers the images within each class, so label and pixels can be matched
    blue = dataset.x_train[:, 32, 32, 2]
    assert blue[dataset.y_train == 1].max() < 10 <= blue[dataset.y_train == 0].max()


def test_folder_images_are_resized_with_padding(tmp_path):
    root = images(tmp_path, {"a": 5, "b": 5}, size=(20, 10))
    x = data.load(f"folder:{root}", None, 0, 0, image_size=8).x_train
    assert x.shape[1:] == (8, 8, 3)
    # 20×10 becomes 8×4: two black rows above and below
    assert (x[:, 2:6, :, 0] == 200).all()
    assert (x[:, :2] == 0).all() and (x[:, 6:] == 0).all()


def test_folder_images_of_every_mode_become_rgb(tmp_path):
    for name, mode in (("a", "L"), ("b", "RGBA"), ("c", "P"), ("d", "1")):
        (tmp_path / name).mkdir()
        for k in range(5):
            Image.new(mode, (8, 8), 1 if mode == "1" else 0).save(tmp_path / name / f"{k}.png")
    x = data.load(f"folder:{tmp_path}", None, 0, 0, image_size=8)
    assert x.x_train.shape[1:] == (8, 8, 3)
    assert (x.x_train[x.y_train == 3] == 255).all() and (x.x_train[x.y_train == 0] == 0).all()


def decoded(image, root, suffix):
    """The image, saved as the only one of its class, as `folder:` has it at its own size."""
    images(root, {"a": 0, "b": 1})
    image.save(root / f"a/0.{suffix}")
    return folder.read(root, image.width).train.x[0].tolist()


@pytest.mark.parametrize(
    ("dtype", "suffix"),
    [("<u2", "png"), ("<u2", "tif"), (">u2", "tif"), ("<i4", "tif"), ("<u2", "pgm")],
)
def test_folder_scales_16_bit_greys(tmp_path, dtype, suffix):
    greys = np.array([[0, 128, 129], [255, 1000, 32768], [65278, 65407, 65535]], dtype)
    # in steps of 65535 / 255 = 257, rounded by hand: 128 / 257 < 0.5 < 129 / 257
    wanted = [[0, 0, 1], [1, 4, 128], [254, 255, 255]]
    found = decoded(Image.fromarray(greys), tmp_path, suffix)
    assert found == [[[grey] * 3 for grey in row] for row in wanted]


def test_folder_leaves_8_bit_greys_in_a_larger_type_as_they_are(tmp_path):
    greys = np.int32([[0, 128], [200, 255]])
    found = decoded(Image.fromarray(greys), tmp_path, "tif")
    assert found == [[[grey] * 3 for grey in row] for row in greys.tolist()]


@pytest.mark.parametrize(
    ("greys", "sentence"),
    [
        (np.float32([[0, 0.5]]), "float32 from 0 to 0.5,"),
        (np.int32([[0, 65536]]), "int32 from 0 to 65536,"),
        (np.int32([[-1, 0]]), "int32 from -1 to 0,"),
    ],
)
def test_folder_refuses_greys_of_unknown_range(tmp_path, greys, sentence):
    with pytest.raises(
        UserError, match=rf"^The image .*a/0\.tif has greys of type {sentence}.*save it[^\n]*\.$"
    ):
        decoded(Image.fromarray(greys), tmp_path, "tif")


def test_folder_lays_transparent_images_on_white(tmp_path):
    # clear, half and full black; 51 / 255 of red
    rgba = np.uint8([[[0, 0, 0, 0], [0, 0, 0, 128]], [[0, 0, 0, 255], [255, 0, 0, 51]]])
    wanted = [[[255] * 3, [127] * 3], [[0] * 3, [255, 204, 204]]]
    assert decoded(Image.fromarray(rgba), tmp_path / "rgba", "png") == wanted
    grey = Image.fromarray(rgba).convert("LA")
    (clear, half), (full, _) = decoded(grey, tmp_path / "la", "png")
    assert [clear, half, full] == [[255] * 3, [127] * 3, [0] * 3]
    palette = Image.new("P", (1, 1), 0)
    palette.info["transparency"] = 0
    assert decoded(palette, tmp_path / "p", "png") == [[[255] * 3]]


def test_folder_refuses_images_beyond_pillow_s_limit(tmp_path, monkeypatch):
    root = images(tmp_path, {"a": 5, "b": 5}, size=(20, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    with pytest.raises(
        UserError, match=r"^The image .*a/0\.png has more than 198 pixels, [^\n]*scale it[^\n]*\.$"
    ):
        data.load(f"folder:{root}")


def test_folder_notices_a_new_image(tmp_path):
    root = images(tmp_path, {"a": 5, "b": 5})
    before = data.load(f"folder:{root}", None, 0, 0, image_size=8)
    Image.new("RGB", (8, 8)).save(root / "a" / "new.png")
    after = data.load(f"folder:{root}", None, 0, 0, image_size=8)
    assert len(after.x_train) + len(after.x_test) == len(before.x_train) + len(before.x_test) + 1


def test_folder_mistakes_get_one_sentence(tmp_path):
    def refused(path, sentence, **options):
        with pytest.raises(UserError, match=rf"{sentence}[^\n]*\.$"):
            data.load(f"folder:{path}", **options)

    refused(tmp_path / "none", "is no folder")
    refused(tmp_path, "holds 0 folders")
    refused(images(tmp_path / "one", {"a": 3}), r"holds 1 folders \(a\).*at least two classes")
    refused(images(tmp_path / "only", {"train": 0}), "holds the folders train, which are splits")
    refused(images(tmp_path / "splits", {"train": 3, "test": 3}), "test, train, which are splits")
    refused(images(tmp_path / "empty", {"a": 3, "b": 0}), "b holds no image")
    broken = images(tmp_path / "broken", {"a": 5, "b": 5})
    (broken / "a" / "3.png").write_bytes(b"not an image")
    refused(broken, r"^Cannot read the image .*3\.png: repair or remove it")
    refused(broken, "image_size is 0", image_size=0)


def test_caltech256_is_a_folder_in_the_data_dir(tmp_path, monkeypatch):
    images(tmp_path / "caltech256", {"001.ak47": 10, "002.flag": 10})
    given = data.load("caltech256", tmp_path, image_size=16)
    monkeypatch.setenv("BPFREE_DATA_DIR", str(tmp_path))
    found = data.load("caltech256", image_size=16)
    assert given.name == "caltech256" and given.classes == 2
    assert (given.x_train == found.x_train).all()


def test_missing_caltech256_gets_one_sentence(tmp_path, monkeypatch):
    monkeypatch.delenv("BPFREE_DATA_DIR", raising=False)
    for data_dir in (tmp_path, None):
        with pytest.raises(UserError, match=r"^caltech256 is not in .*or give folder:<path>\.$"):
            data.load("caltech256", data_dir)


# ---------------------------------------------------------------- TensorFlow Datasets


@pytest.mark.slow
def test_mnist_is_complete(shared_tfds):
    dataset = data.load("mnist", shared_tfds)
    assert dataset.input_shape == (28, 28, 1) and dataset.classes == 10
    assert [len(x) for x in (dataset.x_train, dataset.x_val, dataset.x_test)] == [
        *(54_000, 6_000, 10_000)
    ]
    assert dataset.x_test.dtype == np.uint8
    # published: class counts of the test split, its first labels and the mean of the training set
    assert np.bincount(dataset.y_test).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    everything = data.load("mnist", shared_tfds, validation=0)
    assert abs(everything.x_train.mean() / 255 - 0.1307) < 5e-5
    assert abs(everything.x_train.std() / 255 - 0.3081) < 5e-5


def test_mnist_comes_from_the_environment_s_folder_without_network(shared_tfds, monkeypatch):
    monkeypatch.setenv("BPFREE_DATA_DIR", str(shared_tfds))
    part = data.load("mnist", examples_frac=0.1, seed=5)
    assert len(part.x_train) + len(part.x_val) == 6_000 and len(part.x_test) == 10_000
    given = data.load("tfds:mnist", shared_tfds, examples_frac=0.1, seed=5)
    assert (part.x_train == given.x_train).all() and (part.y_val == given.y_val).all()


@pytest.fixture
def offline(monkeypatch):
    """No host name can be resolved."""
    import socket

    def unknown(*_args, **_kwargs):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("name", ["kmnist", "imagenet32"])
def test_a_set_that_is_nowhere_gets_one_sentence_with_both_ways(tmp_path, offline, name):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError) as caught:
        data.load(name, tmp_path)
    message = str(caught.value)
    assert "prepare it" in message and "--data_dir" in message and str(tmp_path) in message
    assert "npz:<path>" in message and "folder:<path>" in message and "\n" not in message
    assert not list(tmp_path.iterdir())


def test_a_failing_download_keeps_its_cause(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def full(self, **_options):
        raise OSError("disk full")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", full)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [])
    with pytest.raises(UserError, match=r"could not be downloaded \(OSError\)") as caught:
        data.load("kmnist", tmp_path)
    assert str(caught.value.__cause__) == "disk full"


def test_a_set_unknown_to_tfds_gets_one_sentence(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match="knows no set 'no_such_set'"):
        data.load("tfds:no_such_set", tmp_path)


@pytest.mark.parametrize("name", ["mnist/nosuchconfig", "mnist:9.9.9", "mnist/no=such"])
def test_a_configuration_or_version_unknown_to_tfds_gets_one_sentence(tmp_path, name):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match=rf"cannot make '{name}' [^\n]*correct its[^\n]*\.$"):
        data.load(f"tfds:{name}", tmp_path)


class FakeBuilder:
    """A prepared set of 50 images in the splits given; pixels number the examples."""

    name = "fake"

    def __init__(self, splits, shape=(2, 2, 3)):
        import tensorflow as tf
        import tensorflow_datasets as tfds

        self.tf, self.sizes = tf, splits
        self.info = type("Info", (), {})()
        self.info.splits = {
            name: type("Split", (), {"num_examples": size})() for name, size in splits.items()
        }
        self.info.features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=shape),
                "label": tfds.features.ClassLabel(num_classes=5),
            }
        )

    def is_prepared(self):
        return True

    def as_dataset(self, split, **_options):
        def example(i):
            image = self.tf.fill((2, 2, 3), self.tf.cast(i, self.tf.uint8))
            return {"image": image, "label": i % 5}

        return self.tf.data.Dataset.range(self.sizes[split]).map(example)


@pytest.fixture
def fake(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def install(*args, **options):
        monkeypatch.setattr(
            tfds, "builder", lambda *_args, **_kwargs: FakeBuilder(*args, **options)
        )
        data.catalog._source("tfds").read.cache_clear()

    yield install
    data.catalog._source("tfds").read.cache_clear()


def test_a_tfds_set_without_test_split_gets_a_fixed_one(fake):
    fake({"train": 100})
    dataset = data.load("tfds:fake", validation=0)
    train, test = dataset.x_train[:, 0, 0, 0], dataset.x_test[:, 0, 0, 0]
    assert sorted([*train, *test]) == list(range(100)) and len(test) == 20
    assert np.bincount(dataset.y_test).tolist() == [4] * 5
    assert (train % 5 == dataset.y_train).all()


def test_imagenet32_is_tested_on_its_validation_split(fake):
    fake({"train": 100, "validation": 30})
    dataset = data.load("imagenet32")
    assert dataset.x_test[:, 0, 0, 0].tolist() == list(range(30)) and len(dataset.x_train) == 90


def test_a_tfds_set_that_does_not_fit_gets_one_sentence(fake):
    fake({"train": 50}, shape=(None, None, 3))
    with pytest.raises(
        UserError, match=r"images of shape \(None, None, 3\).*give folder:<path>\.$"
    ):
        data.load("tfds:fake")
    fake({"all": 50})
    with pytest.raises(UserError, match="^fake has the splits all: choose"):
        data.load("tfds:fake")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
