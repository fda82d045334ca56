"""Streamed histograms against numpy on all values at once."""

from __future__ import annotations

import numpy as np
import pytest

from sam2edge.calibration.int8.histogram import BINS, Histogram, entropy, minmax, percentile


def histogram(*parts):
    found = Histogram()
    for part in parts:
        found.add(np.asarray(part, np.float32), float(np.max(part, initial=0)))
    return found


@pytest.fixture
def parts():
    """Frames whose magnitudes grow by 4 each, so that the range must grow twice a frame."""
    random = np.random.default_rng(0)
    return [np.abs(random.normal(scale=4.0**i, size=20_000)).astype(np.float32) for i in range(4)]


def test_streaming_equals_counting_at_once(parts):
    found, values = histogram(*parts), np.concatenate(parts)
    limit = 2.0 ** np.ceil(np.log2(values.max()))
    assert (found.largest, found.limit) == (values.max(), limit)
    np.testing.assert_array_equal(found.counts, np.histogram(values, BINS, (0, limit))[0])


def test_merging_equals_streaming(parts):
    one, other = histogram(*parts[:1]), histogram(*parts[1:])
    one.merge(other)
    whole = histogram(*parts)
    assert (one.largest, one.limit) == (whole.largest, whole.limit)
    np.testing.assert_array_equal(one.counts, whole.counts)
    assert other.limit == histogram(*parts[1:]).limit


def test_methods(parts):
    found, values = histogram(*parts), np.concatenate(parts)
    assert minmax(found) == values.max()
    assert percentile(found) == pytest.approx(np.percentile(values, 99.99), abs=2 * found.limit / BINS)


def test_largest_that_was_not_sampled_counts():
    found = Histogram()
    found.add(np.array([1.0, 2.0], np.float32), 9.0)
    assert (minmax(found), found.limit) == (9.0, 16.0)


def test_entropy_cuts_an_outlier_and_keeps_what_is_even():
    bulk = np.abs(np.random.default_rng(0).normal(size=100_000))
    assert 3 < entropy(histogram(np.append(bulk, 100.0))) < 10
    even = np.linspace(0, 4, 100_000)
    assert entropy(histogram(even)) == pytest.approx(4, rel=0.05)


def test_zeros():
    found = histogram(np.zeros(10))
    assert [method(found) for method in (minmax, percentile, entropy)] == [0, 0, 0]
    found.add(np.array([1.0], np.float32), 1.0)
    assert found.counts[0] == 10
    assert found.counts[-1] == 1
