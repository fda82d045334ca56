"""What tracking and image prediction share: graphs, prompts, resizing, results."""
