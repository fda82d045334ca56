"""The choice of variants, over made-up times and verdicts."""

import math

import pytest

from sam2edge.calibration.choose import MIXTURES, Trial, Variant, choose, name
from sam2edge.errors import BackendError, BuildError, EngineError

FP16 = (4.0, 3.0, 1.0, 0.5)
FP32 = (8.0, 6.0, 2.0, 1.0)


def uniform(precision, attention=""):
    """One precision for all graphs, and a form of the memory attention, the second graph."""
    first, *others = (Variant(precision),) * 3
    return (first, Variant(precision, attention), *others)


def machine(times, bad=lambda precisions: False):
    """A function that measures assignments, by times and what the gate refuses, and a list of those that it ran."""
    ran = []

    def measure(assignment):
        ran.append(name(assignment))
        precisions = tuple(map(str, assignment))
        milliseconds = tuple(
            times[str(variant)][graph] if str(variant) in times else times[variant.precision][graph]
            for graph, variant in enumerate(assignment)
        )
        return Trial(assignment, milliseconds, ("mean IoU 0.9",) if bad(precisions) else ())

    return measure, ran


def chosen(trials):
    assert trials[-1].passed
    return trials[-1].name


def rounds(*precisions):
    """A round for each group of precisions, "fp16 int8"."""
    return [[uniform(precision) for precision in group.split()] for group in precisions]


def test_the_fastest_mixture_is_taken():
    """INT8 pays in the encoder and the decoder, and attention loses by it."""
    measure, ran = machine({"fp16": FP16, "int8": (3.0, 3.5, 0.8, 0.5)})
    trials = choose(rounds("fp16 int8"), measure)
    assert chosen(trials) == "int8/fp16/int8/fp16"
    assert trials[-1].total == pytest.approx(7.3)
    assert ran == ["fp16/fp16/fp16/fp16", "int8/int8/int8/int8", "int8/fp16/int8/fp16"]


def test_what_fails_the_gate_is_passed_over_for_the_next_fastest():
    measure, ran = machine({"fp16": FP16, "int8": (3.0, 3.5, 0.8, 0.5)}, bad=lambda precisions: precisions[0] == "int8")
    assert chosen(choose(rounds("fp16 int8"), measure)) == "fp16/fp16/int8/fp16"
    assert ran[2:] == ["int8/fp16/int8/fp16", "int8/fp16/fp16/fp16", "fp16/fp16/int8/fp16"]


@pytest.mark.parametrize(("factor", "best"), [(0.98, "fp16"), (0.5, "int8")])
def test_one_precision_for_all_graphs(factor, best):
    """It is not measured again. Two percent are less than the clock's noise."""
    measure, ran = machine({"fp16": FP16, "int8": tuple(factor * time for time in FP16)})
    assert chosen(choose(rounds("fp16 int8"), measure)) == "/".join([best] * 4)
    assert len(ran) == 2


@pytest.mark.parametrize(("fused", "narrow", "best"), [(3.0, 2.0, "narrow"), (3.0, 2.95, "fused"), (2.0, 3.0, "fused")])
def test_the_form_of_the_memory_attention(fused, narrow, best):
    """The other graphs are the same in both, and what their clocks say differs only by noise."""
    forms = {"fp16 fused": (0, fused), "fp16 narrow": (0, narrow), "int8 fused": (0, 9), "int8 narrow": (0, 9)}
    measure, ran = machine({"fp16": FP16, "int8": (3.0, 9.0, 0.8, 0.5), **forms})
    candidates = [uniform(precision, form) for precision in ("fp16", "int8") for form in ("fused", "narrow")]
    assert chosen(choose([candidates], measure)) == f"int8/fp16 {best}/int8/fp16"
    assert len(ran) == 5


def test_safer_rounds_come_when_nothing_else_passes():
    """FP16 breaks memory attention: only that graph gets BF16, though all of BF16 passes too, and FP32 is not tried."""
    measure, ran = machine({"fp16": FP16, "bf16": FP32, "fp32": FP32}, bad=lambda precisions: precisions[1] == "fp16")
    assert chosen(choose(rounds("fp16", "bf16", "fp32"), measure)) == "fp16/bf16/fp16/fp16"
    assert ran[:2] == ["fp16/fp16/fp16/fp16", "bf16/bf16/bf16/bf16"]
    assert not any("fp32" in one for one in ran)


def test_the_last_round_is_mixed_with_all_before():
    measure, ran = machine({"fp16": FP16, "bf16": FP16, "fp32": FP32}, bad=lambda precisions: precisions[1] != "fp32")
    assert chosen(choose(rounds("fp16", "bf16", "fp32"), measure)) == "bf16/fp32/bf16/bf16"
    assert not any("fp16" in one for one in ran[1:]), "FP16, which is no faster than BF16, is in a mixture"


def test_nothing_passes():
    measure, ran = machine({"fp16": FP16, "fp32": FP32}, bad=lambda precisions: True)
    trials = choose(rounds("fp16", "fp32"), measure)
    assert not trials[-1].passed
    assert trials[-1].assignment == uniform("fp32")
    assert len(ran) == 2


def test_mixtures_are_bounded_and_the_best_measured_is_taken():
    measure, ran = machine(
        {"fp16": FP16, "int8": tuple(0.5 * time for time in FP16), "fp32": FP32},
        bad=lambda precisions: set(precisions) != {"fp32"},
    )
    trials = choose(rounds("fp16 int8", "fp32"), measure)
    assert chosen(trials) == "fp32/fp32/fp32/fp32"
    assert len(trials) == len(ran) == 3 + MIXTURES


def test_a_passing_assignment_is_taken_even_where_it_gains_nothing():
    """INT8 is no faster than FP16, so it is in no mixture; but FP16 does not pass."""
    measure, ran = machine({"fp16": FP16, "int8": FP16}, bad=lambda precisions: "fp16" in precisions)
    assert chosen(choose(rounds("fp16 int8", "fp32"), measure)) == "int8/int8/int8/int8"
    assert len(ran) == 2


@pytest.mark.parametrize("error", [BuildError, EngineError, BackendError])
def test_a_variant_that_cannot_be_built_or_run_is_not_chosen(error):
    real, _ = machine({"fp16": FP16, "int8": (1.0, 1.0, 1.0, 1.0)})

    def measure(assignment):
        if Variant("int8") in assignment:
            raise error("no kernel")
        return real(assignment)

    trials = choose(rounds("fp16 int8"), measure)
    assert chosen(trials) == "fp16/fp16/fp16/fp16"
    assert trials[0].failures == ("no kernel",)
    assert trials[0].total == math.inf
