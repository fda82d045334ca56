"""What the image encoder gives of a frame or image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Embedding:
    """An encoded image: what prompts are decoded on and objects are tracked in. 16 MB at S = 1024.

    features: float32 [1,C,h,h], without the no-memory embedding, which the decoder's graph adds. high_res_0: float32
    [1,C/8,4h,4h]. high_res_1: float32 [1,C/4,2h,2h]. size: (H,W) of the image.
    """

    features: Floats
    high_res_0: Floats
    high_res_1: Floats
    size: tuple[int, int]
