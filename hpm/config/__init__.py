"""gin at the edge: how a config becomes objects. Nothing outside this package knows gin's own names."""

from hpm.config.parser import (
    Config,
    configs_folder,
    configurables,
    find_config,
    imported_configurables,
    make_importable,
    parse_config,
    register_configurables,
    resume_changes,
)

__all__ = [
    "Config",
    "configs_folder",
    "configurables",
    "find_config",
    "imported_configurables",
    "make_importable",
    "parse_config",
    "register_configurables",
    "resume_changes",
]
