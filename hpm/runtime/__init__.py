"""What lies below training: devices, precision, processes, signals and files."""
