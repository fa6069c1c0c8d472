"""The training of a method: settings, trainer, loop, optimizer step."""
