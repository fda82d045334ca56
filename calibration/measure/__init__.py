"""How accurate and how fast a set of graphs is: closed loop, J&F, the gate and its report."""
