"""The frozen forward pass: uint8 images in, float32 features out."""
