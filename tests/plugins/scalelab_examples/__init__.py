"""Examples of plug-ins for scalelab: one file each, found through the entry points."""
