"""Words as prompts: what a detector beside the four graphs finds in a frame."""

SCORE = 0.3
"""What a detection must score to be an object, unless another score is asked for."""
