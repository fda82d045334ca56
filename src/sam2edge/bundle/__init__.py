"""The bundle: one directory with four graphs and the manifest.json that describes them; perhaps a word detector."""

from sam2edge.bundle.contract import (
    GRAPHS as GRAPHS,
    Model as Model,
    TensorSpec as TensorSpec,
    contract as contract,
    memory_pools as memory_pools,
)
from sam2edge.bundle.manifest import (
    FORMAT as FORMAT,
    RECIPE as RECIPE,
    Bundle as Bundle,
    Calibration as Calibration,
    Manifest as Manifest,
    check_output as check_output,
    read_manifest as read_manifest,
    replacing as replacing,
    write_manifest as write_manifest,
)
from sam2edge.bundle.records import MANIFEST as MANIFEST, Graph as Graph, Parity as Parity, Source as Source
