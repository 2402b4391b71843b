"""Laws of minima: isoFLOP slices, envelopes of curves, and the frontier."""
