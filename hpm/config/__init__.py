"""gin at the edge: how a config becomes objects. Nothing outside this package knows gin.

registry       what can be configured
parser         reading files
imports        a user's own modules, and which are not executed
configuration  what was parsed, and building from it
in_force       what it comes to, without building it
usage          what was consumed, replaced, or is made of itself
resume_diff    what may change when a run is resumed
gin_compat     gin itself, its private names among it
"""

from hpm.config.configuration import Config
from hpm.config.imports import make_importable
from hpm.config.in_force import REQUIRED, InForce, Setting, in_force
from hpm.config.parser import parse_config
from hpm.config.registry import configurables, imported_configurables, register_configurables
from hpm.config.resume_diff import resume_changes
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
    "make_importable",
    "parse_config",
    "register_configurables",
    "resume_changes",
]
