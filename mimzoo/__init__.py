"""A zoo of masked-image-modelling encoders for 3D medical images."""

__version__ = "0.1.0"
