"""From a checkpoint to a bundle: the only part of sam2edge that needs PyTorch (pip install "sam2edge[export]")."""

from sam2edge.export.exporter import export

__all__ = ["export"]
