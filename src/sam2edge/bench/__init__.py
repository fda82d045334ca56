"""What a frame costs, measured: `sam2edge bench`. Every row of its table runs in a process of its own."""
