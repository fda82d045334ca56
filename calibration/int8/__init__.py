"""INT8 graphs: recorded ranges, quantisation, what is left out of it."""
