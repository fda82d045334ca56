"""What a graph costs, and how fast a device could run it at best."""
