"""The magnitudes of one tensor over many frames in fixed memory, and the range that INT8 should cover of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sam2edge.types import Floats

BINS = 4096
LEVELS = 128
"""Magnitudes that symmetric INT8 tells apart, 0 to 127."""
PERCENTILE = 99.99


@dataclass(eq=False)
class Histogram:
    """Counts of magnitudes from 0 to `limit`, a power of two, which doubles as larger ones come.

    A power of two keeps the bins of all histograms aligned, so that growing and merging move whole bins. largest: the
    largest magnitude, exact.
    """

    largest: float = 0.0
    limit: float = 0.0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, magnitudes: Floats, largest: float) -> None:
        """Count a sample of magnitudes, of which `largest` is the largest beside those that were not sampled."""
        self.largest = max(self.largest, largest)
        if self.largest > self.limit:
            self._grow(float(2.0 ** np.ceil(np.log2(self.largest))))
        if self.limit:
            bins = np.minimum((magnitudes * (BINS / self.limit)).astype(np.int64), BINS - 1)
            self.counts += np.bincount(bins, minlength=BINS)
        else:
            self.counts[0] += magnitudes.size

    def merge(self, other: Histogram) -> None:
        """Add what another one counted."""
        other = Histogram(other.largest, other.limit, other.counts.copy())
        limit = max(self.limit, other.limit)
        self._grow(limit)
        other._grow(limit)
        self.largest = max(self.largest, other.largest)
        self.counts += other.counts

    def _grow(self, limit: float) -> None:
        while 0 < self.limit < limit:
            self.counts[: BINS // 2] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[BINS // 2 :] = 0
            self.limit *= 2
        self.limit = limit


def minmax(histogram: Histogram) -> float:
    """The largest magnitude that was seen."""
    return histogram.largest


def percentile(histogram: Histogram) -> float:
    """The magnitude that 99.99 percent do not exceed, to the width of a bin."""
    cumulated = np.cumsum(histogram.counts)
    place = int(np.searchsorted(cumulated, PERCENTILE / 100 * cumulated[-1]))
    return min(histogram.largest, (place + 1) * histogram.limit / BINS)


def entropy(histogram: Histogram) -> float:
    """The range whose 128 levels lose the least information: the smallest KL divergence, as TensorRT's calibrator.

    Source: Migacz, "8-bit Inference with TensorRT", GTC 2017. What lies beyond a range counts at its end in the
    original and is not there in the quantised distribution. Exact zeros say nothing of the range: the first bin counts
    as much as the second (as in NVIDIA's pytorch-quantization).
    """
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1]
    if not counts.any():
        return histogram.largest
    used = int(np.flatnonzero(counts)[-1]) + 1
    ends = range(LEVELS, max(used, LEVELS) + LEVELS // 8, LEVELS // 8)
    best = min(ends, key=lambda end: _divergence(counts, min(end, BINS)))
    return min(histogram.largest, min(best, BINS) * histogram.limit / BINS)


def _divergence(counts: npt.NDArray[np.float64], end: int) -> float:
    kept = counts[:end]
    original = kept.copy()
    original[-1] += counts[end:].sum()
    group = np.arange(end) * LEVELS // end
    filled = kept > 0
    sums = np.bincount(group, kept, LEVELS)
    sizes = np.bincount(group, filled, LEVELS)
    quantised = np.where(filled, (sums / np.maximum(sizes, 1))[group], 0)
    if not quantised.any():
        return np.inf
    p, q = original / original.sum(), quantised / quantised.sum()
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))).sum())


METHODS: dict[str, Callable[[Histogram], float]] = {"minmax": minmax, "percentile": percentile, "entropy": entropy}
"""Ways to choose the range of a tensor."""
