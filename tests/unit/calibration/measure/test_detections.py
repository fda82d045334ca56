"""Detections of two detectors: which are the same, and what the gate says of the rest."""

import pytest

from sam2edge.calibration.measure.detections import DetectionComparison, DetectionGate
from sam2edge.errors import InputError
from sam2edge.runtime.words.detections import Detections

BOX, NEAR, FAR = (0, 0, 10, 10), (0, 0, 10, 9), (50, 50, 60, 60)


def found(*detections):
    return Detections(*(list(column) for column in zip(*detections, strict=True))) if detections else NOTHING


NOTHING = Detections([], [], ())


def compare(*frames, threshold=0.3):
    comparison = DetectionComparison(threshold)
    for reference, other in frames:
        comparison.add(found(*reference), found(*other))
    return comparison.errors()


def test_the_same_object_is_kept_with_its_errors():
    errors = compare(
        ([(BOX, 0.9, "cup")], [(NEAR, 0.8, "cup")]),
        ([(BOX, 0.9, "cup"), (FAR, 0.5, "cat")], [(FAR, 0.5, "cat"), (BOX, 0.9, "cup")]),
    )
    assert (errors.found, errors.kept, errors.new) == (3, 1, 0)
    assert (errors.box, errors.worst_box) == (pytest.approx(0.1 / 3), pytest.approx(0.1))
    assert (errors.score, errors.worst_score) == (pytest.approx(0.1 / 3), pytest.approx(0.1))
    assert DetectionGate().failures(errors) == []


@pytest.mark.parametrize(
    ("other", "kept", "new"),
    [
        ((), 0, 0),
        ([(FAR, 0.9, "cup")], 0, 1),
        ([(BOX, 0.9, "cat")], 0, 1),
        ([(BOX, 0.9, "cup"), (BOX, 0.8, "cup")], 1, 1),  # one object is one detection
        ([(BOX, 0.2, "cup")], 1, 0),  # below the threshold, but not by much
        ([(BOX, 0.9, "cup"), (FAR, 0.2, "cat")], 1, 0),
    ],
)
def test_what_is_lost_and_what_is_new(other, kept, new):
    errors = compare(([(BOX, 0.9, "cup")], other))
    assert (errors.found, errors.kept, errors.new) == (1, kept, new)


def test_what_neither_finds_for_sure_does_not_count():
    errors = compare(([(BOX, 0.2, "cup")], [(NEAR, 0.25, "cup")]))
    assert (errors.found, errors.new, errors.worst_box) == (0, 0, 0)


def test_every_limit_is_named():
    errors = compare(([(BOX, 0.9, "cup"), (FAR, 0.9, "cup")], [(NEAR, 0.5, "cup"), (NEAR, 0.9, "cat")]))
    assert DetectionGate().failures(errors) == [
        "0.500 of 2 detections are kept, below 0.95",
        "the share of new detections 0.500 is above 0.05",
        "the mean box error 0.100 is above 0.05",
        "the mean score error 0.400 is above 0.05",
    ]
    with pytest.raises(InputError, match="max_box must be a finite number from 0 to 1 but got 2"):
        DetectionGate(max_box=2)
