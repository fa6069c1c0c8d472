"""What each command of `hpm` does, one module each; the options are in `hpm.cli`."""
