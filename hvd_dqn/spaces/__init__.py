"""Spaces of observations: records of bytes, the channels of images, and descriptions as JSON."""
