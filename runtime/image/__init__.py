"""Images: masks of prompts, and masks of everything."""

GRID = {"points_per_side": int, "pred_iou_thresh": float, "stability_score_thresh": float}
"""The arguments of AutomaticMaskGenerator that commands and servers offer, with their types."""
