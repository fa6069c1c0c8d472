"""How a study runs: launcher, workers, processes, storage."""
