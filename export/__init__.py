"""From a checkpoint to a bundle: the only part of sam2edge that needs PyTorch (pip install "sam2edge[export]")."""

from sam2edge.export.exporter import export
from sam2edge.export.words import export_words, is_word_detector

__all__ = ["export", "export_words", "is_word_detector"]
