"""Which curriculum is best: ablations, searches and comparisons. Reserved; see `hpm-study --help`."""
