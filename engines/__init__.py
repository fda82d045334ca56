"""What the machine has and, on the target GPU, engines compiled from a bundle."""
