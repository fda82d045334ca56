"""What the image encoder gives of a frame or image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam2edge.runtime.backends.base import AnyArray

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Embedding:
    """An encoded image: what prompts are decoded on and objects are tracked in. 16 MB at S = 1024, in FP16 half.

    Its arrays lie where the backend that made it runs; on the CPU they are numpy's, float32. features: [1,C,h,h],
    without the no-memory embedding, which the decoder's graph adds. high_res_0: [1,C/8,4h,4h]. high_res_1:
    [1,C/4,2h,2h]. size: (H,W) of the image.
    """

    features: AnyArray
    high_res_0: AnyArray
    high_res_1: AnyArray
    size: tuple[int, int]
