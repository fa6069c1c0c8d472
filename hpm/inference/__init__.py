"""Trained models, loaded for use rather than for training."""
