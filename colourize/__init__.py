"""Colour for grey pictures, and large pictures from small ones, with convolutions of our own (`myconv2d`)."""

__version__ = "0.1.0"
