"""Scalers against hand values; augmentation that repeats itself."""

import keras
import numpy as np
import pytest

from bpfree.data.preprocessing import AUGMENTATIONS, augmenter, scaler
from bpfree.errors import UserError


@pytest.mark.parametrize(
    ("name", "values", "value_range"),
    [
        ("standard", {0: -1, 51: -0.6, 102: -0.2, 153: 0.2, 255: 1}, (-1, 1)),
        ("zero_one", {0: 0, 51: 0.2, 102: 0.4, 153: 0.6, 255: 1}, (0, 1)),
        ("identity", {0: 0, 51: 51, 102: 102, 153: 153, 255: 255}, (0, 255)),
    ],
)
def test_scalers_by_hand(name, values, value_range):
    scale = scaler(name)
    scaled = scale(np.array(list(values), np.uint8))
    assert scaled.dtype == np.float32 and scale.value_range == value_range
    assert (scaled == np.array(list(values.values()), np.float32)).all()
    everything = scale(np.arange(256, dtype=np.uint8))
    assert (everything.min(), everything.max()) == value_range
    assert (np.diff(everything) > 0).all()


def test_a_scaler_leaves_its_input_alone():
    x = np.array([0.0, 3.0], np.float32)
    scaled = scaler("identity", x.dtype)(x)
    scaled += 1
    assert x.tolist() == [0, 3]


def test_only_identity_is_for_data_that_is_not_uint8():
    assert scaler("identity", np.float64).value_range is None
    assert scaler("identity", "float64")(np.array([0.1])).dtype == np.float32
    with pytest.raises(UserError, match=r"^The scaler standard is for uint8 images.*identity\.$"):
        scaler("standard", np.float32)
    with pytest.raises(UserError, match="the data is int64"):
        scaler("zero_one", np.int64)


def test_unknown_names_get_one_sentence():
    with pytest.raises(UserError, match=r"^Unknown scaler 'minmax': use one of standard, zero_one"):
        scaler("minmax")
    with pytest.raises(
        UserError, match=r"^Unknown augmentation 'contrast', 'mirror': use brightness, "
    ):
        augmenter(["mirror", "zoom", "contrast"], (0, 1))
    with pytest.raises(UserError, match=r"^Cannot augment \(zoom\) data that is not uint8"):
        augmenter(["zoom"], None)


def test_no_names_no_augmentation():
    assert augmenter([], (0, 1)) is None


@pytest.fixture
def x():
    # a bright spot off the centre of each image, on black
    x = np.full((6, 12, 12, 1), -1, np.float32)
    x[:, 2:5, 3:6] = 0.9
    return x


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_transformation_is_a_function_of_seed_epoch_and_index(name, x):
    first = augmenter([name], (-1, 1), seed=3)
    wanted = first(x, epoch=2, index=1)
    assert wanted.dtype == np.float32 and wanted.shape == x.shape
    for epoch, index in ((0, 0), (2, 0), (1, 1)):
        assert (first(x, epoch, index) != wanted).any()
    assert (first(x, 2, 1) == wanted).all(), "earlier calls must leave no trace"
    assert (augmenter([name], (-1, 1), seed=3)(x, 2, 1) == wanted).all()
    assert (augmenter([name], (-1, 1), seed=4)(x, 2, 1) != wanted).any()
    assert len({image.tobytes() for image in wanted}) > 1, "every image has its own"


def test_brightness_shifts_whole_images_within_the_range(x):
    changed = augmenter(["brightness"], (-1, 1))(x, 0, 0)
    shift = changed[:, 3, 4, 0] - x[:, 3, 4, 0]
    assert changed.min() >= -1 and changed.max() <= 1
    # factor 0.2 of a range of 2, cut off at 1
    assert (np.abs(shift) <= 0.4 + 1e-6).all() and (shift < -0.05).any()
    identity = augmenter(["brightness"], scaler("identity").value_range)(x * 0 + 100, 0, 0)
    assert np.abs(identity - 100).max() > 5, "the range is 0 … 255, so shifts are up to 51"


def test_translation_moves_by_at_most_a_fifth_both_ways_independently(x):
    moved = augmenter(["translation"], (-1, 1))(np.repeat(x, 20, axis=0), 0, 0)[..., 0] + 1
    mass = moved.sum((1, 2))
    rows = (moved.sum(2) * np.arange(12)).sum(1) / mass - 3
    columns = (moved.sum(1) * np.arange(12)).sum(1) / mass - 4
    assert np.abs(rows).max() <= 2.4 + 0.1 and np.abs(columns).max() <= 2.4 + 0.1
    assert rows.std() > 0.8 and columns.std() > 0.8
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.4


def test_all_of_them_stay_within_the_range_under_mixed_precision(x):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        changed = augmenter(AUGMENTATIONS, (-1, 1))(x, 0, 0)
    finally:
        keras.config.set_dtype_policy(before)
    assert changed.dtype == np.float32
    assert changed.min() >= -1 and changed.max() <= 1
    assert (changed == augmenter(AUGMENTATIONS, (-1, 1))(x, 0, 0)).all()


def test_flips_mirror_about_half_of_the_images(x):
    flipped = augmenter(["flip"], (-1, 1), seed=3)(x, 0, 0)
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, x, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(flipped, x, strict=True)]
    assert all(m or k for m, k in zip(mirrored, kept, strict=True))
    assert 0.2 < np.mean(mirrored) < 0.8


def test_a_crop_is_a_window_of_the_padded_image(x):
    cropped = augmenter(["crop"], (-1, 1), seed=3)(x, 0, 0)
    height, width = x.shape[1:3]
    b, c = height // 8, width // 8
    padded = np.pad(x, ((0, 0), (b, b), (c, c), (0, 0)), constant_values=-1)
    places = []
    for image, around in zip(cropped, padded, strict=True):
        found = [
            (top, left)
            for top in range(2 * b + 1)
            for left in range(2 * c + 1)
            if np.array_equal(image, around[top : top + height, left : left + width])
        ]
        assert found
        places.append(found[0])
    assert len(set(places)) > 1 or b == c == 0
