"""Imported by the process that workers are copies of: loads what their backbone needs, so that they start at once."""

from randlora.backbones import clip

clip._open_clip()
