"""Networks, classifiers and measures for dense tasks: segmentation and detection."""
