"""gin at the edge: how a config becomes objects. Nothing outside this package knows gin.

registry       what can be configured
parser         finding and reading files
imports        a user's own modules, and which are not executed
configuration  what was parsed, and building from it
usage          what was consumed, replaced, or is made of itself
suggestions    what was meant by a name that there is not
resume_diff    what may change when a run is resumed
gin_compat     gin itself, its private names among it
"""

from hpm.config.configuration import Config
from hpm.config.gin_compat import keeping_gin
from hpm.config.imports import make_importable
from hpm.config.parser import configs_folder, find_config, parse_config
from hpm.config.registry import configurables, imported_configurables, register_configurables
from hpm.config.resume_diff import resume_changes

__all__ = [
    "Config",
    "configs_folder",
    "configurables",
    "find_config",
    "imported_configurables",
    "keeping_gin",
    "make_importable",
    "parse_config",
    "register_configurables",
    "resume_changes",
]
