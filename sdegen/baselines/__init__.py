"""Other families of generative models, which meet the score models in shared metrics and, here, in shared bounds."""

from .hierarchical import Hierarchy, Layer, diffusion_hierarchy

__all__ = ["Hierarchy", "Layer", "diffusion_hierarchy"]
