"""What a study's results say: runs as they were kept, statistics over seeds, and the comparison of variants."""
