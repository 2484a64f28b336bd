"""The two-view network: shared encoder, two cross-attending decoders, linear and query heads."""
