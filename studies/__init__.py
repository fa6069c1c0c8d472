"""Which curriculum is best: ablations, searches and comparisons; see `hpm-study --help`."""
