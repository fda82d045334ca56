"""Accuracy is measured, INT8 graphs get ranges from the running loop, and engines are checked on a clip."""
