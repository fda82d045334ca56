"""Precision is measured: accuracy of masks, and INT8 graphs with ranges from the running loop."""
