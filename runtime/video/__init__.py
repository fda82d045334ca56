"""Objects followed through frames: the streaming tracker and the predictor for whole videos."""

KNOBS = ("min_confidence", "memory_frames", "memory_stride", "track_every")
"""The arguments of VideoTracker that say what is remembered, and of which frames."""
