"""A synthetic visible-infrared pedestrian set: drawn people, captions, SYSU-MM01's layout."""

from vireid_fast.data.synthetic.attributes import Attributes, sample_identity
from vireid_fast.data.synthetic.cameras import CAMERAS, INFRARED_CAMERAS, VISIBLE_CAMERAS
from vireid_fast.data.synthetic.captions import CAPTION_WORDS, caption
from vireid_fast.data.synthetic.render import render_person, render_tracklet
from vireid_fast.data.synthetic.sheet import contact_sheet
from vireid_fast.data.synthetic.writer import is_synthetic, write_sysu_layout

__all__ = [
    "CAMERAS",
    "CAPTION_WORDS",
    "INFRARED_CAMERAS",
    "VISIBLE_CAMERAS",
    "Attributes",
    "caption",
    "contact_sheet",
    "is_synthetic",
    "render_person",
    "render_tracklet",
    "sample_identity",
    "write_sysu_layout",
]
