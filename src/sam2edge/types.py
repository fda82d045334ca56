"""Types that several rooms share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Frame = npt.NDArray[np.uint8]
"""A frame or an image: RGB uint8 [H,W,3]."""

Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction of it that is done, from 0 to 1."""
