"""A synthetic visible-infrared pedestrian set: drawn people, captions, the layouts of real sets."""

from vireid_fast.data.synthetic.attributes import Attributes, sample_identity
from vireid_fast.data.synthetic.cameras import CAMERAS, INFRARED_CAMERAS, VISIBLE_CAMERAS
from vireid_fast.data.synthetic.captions import CAPTION_WORDS, caption
from vireid_fast.data.synthetic.folder import is_synthetic
from vireid_fast.data.synthetic.layouts import LAYOUTS, write_layout
from vireid_fast.data.synthetic.layouts.sysu_mm01 import write_sysu_layout
from vireid_fast.data.synthetic.render import render_pair, render_person, render_tracklet
from vireid_fast.data.synthetic.sheet import contact_sheet

__all__ = [
    "CAMERAS",
    "CAPTION_WORDS",
    "INFRARED_CAMERAS",
    "LAYOUTS",
    "VISIBLE_CAMERAS",
    "Attributes",
    "caption",
    "contact_sheet",
    "is_synthetic",
    "render_pair",
    "render_person",
    "render_tracklet",
    "sample_identity",
    "write_layout",
    "write_sysu_layout",
]
