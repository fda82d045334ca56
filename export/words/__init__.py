"""From an OWLv2 or OWL-ViT to the word detector of a bundle."""

from sam2edge.export.words.exporter import export_words, write_words
from sam2edge.export.words.source import is_word_detector

__all__ = ["export_words", "is_word_detector", "write_words"]
