"""The bundle: one directory with four graphs and the manifest.json that describes them."""

from sam2edge.bundle.contract import GRAPHS, Model, TensorSpec, contract, memory_pools
from sam2edge.bundle.manifest import (
    FORMAT,
    MANIFEST,
    RECIPE,
    Bundle,
    Calibration,
    Graph,
    Manifest,
    Parity,
    Source,
    check_output,
    read_manifest,
    replacing,
    write_manifest,
)

__all__ = [
    "FORMAT",
    "GRAPHS",
    "MANIFEST",
    "RECIPE",
    "Bundle",
    "Calibration",
    "Graph",
    "Manifest",
    "Model",
    "Parity",
    "Source",
    "TensorSpec",
    "check_output",
    "contract",
    "memory_pools",
    "read_manifest",
    "replacing",
    "write_manifest",
]
