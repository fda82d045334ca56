"""Objects followed through frames: the streaming tracker and the predictor for whole videos."""
