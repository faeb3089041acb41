"""Frames and codecs: bytes to structs and back, pure."""
