"""Street scenes drawn from a seed, in the file formats of GTA5, Cityscapes and SYNTHIA."""

from data_loaders.demo_city.city import draw_demo_city

__all__ = ["draw_demo_city"]
