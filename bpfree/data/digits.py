"""scikit-learn's bundled handwritten digits: 1797 images of 8×8, no network needed."""

from __future__ import annotations

import numpy as np

from bpfree.data.dataset import Pair, Raw


def read() -> Raw:
    """The digits as uint8 images (1797, 8, 8, 1): values 0 … 16 become round(value · 255 / 16)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return Raw(Pair(x[..., None], digits.target.astype(np.int64)), classes=10)
