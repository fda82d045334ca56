"""The choice of precisions, over made-up times and verdicts."""

import math

import pytest

from sam2edge.calibration.choose import SAFE, TRIALS, Trial, choose
from sam2edge.errors import BackendError, BuildError, EngineError

FP16 = (4.0, 3.0, 1.0, 0.5)
FP32 = (8.0, 6.0, 2.0, 1.0)


def machine(times, bad=lambda assignment: False):
    """A function that measures assignments, by times and what the gate refuses, and a list of those that it ran."""
    ran = []

    def measure(assignment):
        ran.append("/".join(assignment))
        milliseconds = tuple(times[precision][graph] for graph, precision in enumerate(assignment))
        return Trial(assignment, milliseconds, ("mean IoU 0.9",) if bad(assignment) else ())

    return measure, ran


def chosen(trials):
    assert trials[-1].passed
    return "/".join(trials[-1].assignment)


def test_the_fastest_mixture_is_taken():
    """INT8 pays in the encoder and the decoder, and attention loses by it."""
    measure, ran = machine({"fp16": FP16, "int8": (3.0, 3.5, 0.8, 0.5)})
    trials = choose(("fp16", "int8"), measure)
    assert chosen(trials) == "int8/fp16/int8/fp16"
    assert trials[-1].total == pytest.approx(7.3)
    assert ran == ["fp16/fp16/fp16/fp16", "int8/int8/int8/int8", "int8/fp16/int8/fp16"]


def test_what_fails_the_gate_is_passed_over_for_the_next_fastest():
    measure, ran = machine({"fp16": FP16, "int8": (3.0, 3.5, 0.8, 0.5)}, bad=lambda assignment: assignment[0] == "int8")
    assert chosen(choose(("fp16", "int8"), measure)) == "fp16/fp16/int8/fp16"
    assert ran[2:] == ["int8/fp16/int8/fp16", "int8/fp16/fp16/fp16", "fp16/fp16/int8/fp16"]


@pytest.mark.parametrize(("factor", "best"), [(0.98, "fp16"), (0.5, "int8")])
def test_one_precision_for_all_graphs(factor, best):
    """It is not measured again. Two percent are less than the clock's noise."""
    measure, ran = machine({"fp16": FP16, "int8": tuple(factor * time for time in FP16)})
    assert chosen(choose(("fp16", "int8"), measure)) == "/".join([best] * 4)
    assert len(ran) == 2


def test_fp32_comes_when_nothing_else_passes():
    """FP16 breaks memory attention: only that graph becomes FP32, though all of FP32 passes too."""
    measure, ran = machine({"fp16": FP16, "fp32": FP32}, bad=lambda assignment: assignment[1] != "fp32")
    assert chosen(choose(("fp16",), measure)) == "fp16/fp32/fp16/fp16"
    assert ran[:2] == ["fp16/fp16/fp16/fp16", "fp32/fp32/fp32/fp32"]


def test_nothing_passes():
    measure, ran = machine({"fp16": FP16, "fp32": FP32}, bad=lambda assignment: True)
    trials = choose(("fp16",), measure)
    assert not trials[-1].passed
    assert set(trials[-1].assignment) == {SAFE}
    assert len(ran) == 2


def test_trials_are_bounded_and_the_best_of_them_is_taken():
    measure, ran = machine(
        {"fp16": FP16, "int8": tuple(0.5 * time for time in FP16), "fp32": FP32},
        bad=lambda assignment: set(assignment) != {"fp32"},
    )
    trials = choose(("fp16", "int8"), measure)
    assert chosen(trials) == "fp32/fp32/fp32/fp32"
    assert len(trials) == len(ran) == TRIALS + 1


@pytest.mark.parametrize("error", [BuildError, EngineError, BackendError])
def test_a_precision_that_cannot_be_built_or_run_is_not_chosen(error):
    real, _ = machine({"fp16": FP16, "int8": (1.0, 1.0, 1.0, 1.0)})

    def measure(assignment):
        if "int8" in assignment:
            raise error("no kernel")
        return real(assignment)

    trials = choose(("fp16", "int8"), measure)
    assert chosen(trials) == "fp16/fp16/fp16/fp16"
    assert trials[0].failures == ("no kernel",)
    assert trials[0].total == math.inf
