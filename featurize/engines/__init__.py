"""Engines that run a frozen backbone: uint8 images in, float32 features out."""
