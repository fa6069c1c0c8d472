"""How a study runs: its options, launcher, workers and queue, and the processes that train."""
