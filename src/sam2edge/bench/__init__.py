"""`sam2edge bench`: what a frame costs, each row of its table measured in a process of its own."""
