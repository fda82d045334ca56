"""INT8 graphs: their ranges, quantisation, and the layers that are kept out of it."""
