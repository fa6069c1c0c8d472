"""What a study is: an ablation or a search, its space and its baselines."""
