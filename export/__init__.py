"""Checkpoint in, bundle out. The only part of sam2edge that knows PyTorch (pip install "sam2edge[export]")."""

from sam2edge.export.exporter import export

__all__ = ["export"]
