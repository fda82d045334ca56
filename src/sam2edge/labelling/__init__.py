"""`sam2edge label`: many videos and images, labelled by several workers, on this machine or on a cluster."""
