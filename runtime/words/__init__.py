"""Words as prompts: what a detector beside the four graphs finds in a frame."""
