"""gin at the edge: how a config becomes objects. Nothing outside this package knows gin.

registry       what can be configured
parser         reading files
entry_points   parts that installed packages offer
imports        a user's own modules, and which are not executed
configuration  what was parsed, and building from it
in_force       what it comes to, without building it
usage          what was consumed, replaced, or is made of itself
resume_diff    what may change when a run is resumed
gin_compat     gin itself, its private names among it
"""

from hpm.config.configuration import Config
from hpm.config.entry_points import load_offers, parts_by_kind, parts_called, require_packages
from hpm.config.gin_compat import keeping_gin
from hpm.config.imports import make_importable
from hpm.config.in_force import REQUIRED, InForce, Setting, in_force
from hpm.config.parser import parse_config
from hpm.config.registry import configurables, imported_configurables, register_configurables
from hpm.config.resume_diff import resume_changes
from hpm.config.values import type_names
from hpm.runtime.config_files import configs_folder, find_config

__all__ = [
    "REQUIRED",
    "Config",
    "InForce",
    "Setting",
    "configs_folder",
    "configurables",
    "find_config",
    "imported_configurables",
    "in_force",
    "keeping_gin",
    "load_offers",
    "make_importable",
    "parse_config",
    "parts_by_kind",
    "parts_called",
    "register_configurables",
    "require_packages",
    "resume_changes",
    "type_names",
]
