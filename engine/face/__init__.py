"""From a frame to a crop: detection, selection, alignment, references, occlusion."""
