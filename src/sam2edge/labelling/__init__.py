"""`sam2edge label`: many videos and images, labelled by several workers, on this machine or on a cluster."""

LABEL_IMAGE_LAYOUTS = ("davis", "youtube-vos")
"""Layouts of videos that are made of label images, in which only one object can have a pixel."""
LAYOUTS = ("coco", *LABEL_IMAGE_LAYOUTS)
"""What `sam2edge label` can make of all items at the end."""
