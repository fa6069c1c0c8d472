"""Students: encoders, what reconstructs, and what predicts the reconstruction's loss."""
