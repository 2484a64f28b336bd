"""From pairs of pointmaps to cameras, intrinsics, metric scale and fused depth."""
