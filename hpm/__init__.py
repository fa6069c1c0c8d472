"""Masked image modelling with Hard Patches Mining and any other mask curriculum.

Kept free of imports, so that `hpm --help` answers at once: import the parts from their modules.
"""

__version__ = "0.1.0"
