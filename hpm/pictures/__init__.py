"""Pictures of a model and of its training, as PNG files."""

from hpm.pictures.panels import Panels, look
from hpm.pictures.sheet import draw_sheet
from hpm.pictures.strip import Stage, draw_strip
from hpm.pictures.timeline import draw_timeline

__all__ = ["Panels", "Stage", "draw_sheet", "draw_strip", "draw_timeline", "look"]
