"""Precision is measured: accuracy of masks, and (later) calibration of INT8 graphs."""
