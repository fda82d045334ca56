"""`sam2edge doctor`."""

from __future__ import annotations

import argparse

from sam2edge.commands import FAILED


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Check this machine's setup: what is installed, what is missing and what to do about it. Exit code 1 if this "
        "machine cannot track."
    )
    parser.set_defaults(verb=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from sam2edge.engines import environment

    findings = environment.probe()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.status:<8} {finding.name:<{width}}  {finding.detail}")
        if finding.advice:
            print(" " * (width + 11) + finding.advice)
    if environment.can_run(findings):
        print("\nThis machine can track.")
        return 0
    print("\nThis machine cannot track: see the lines above that are not ok.")
    return FAILED
