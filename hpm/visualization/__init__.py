"""Pictures of a model and of its training, as PNG files."""

from hpm.visualization.gallery import draw_gallery
from hpm.visualization.panels import Panels, look
from hpm.visualization.sheet import draw_sheet
from hpm.visualization.strip import Stage, draw_strip
from hpm.visualization.timeline import draw_timeline

__all__ = ["Panels", "Stage", "draw_gallery", "draw_sheet", "draw_strip", "draw_timeline", "look"]
