"""Images: masks of prompts, and masks of everything."""
