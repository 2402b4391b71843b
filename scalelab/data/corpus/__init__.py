"""A prepared corpus: encoding, split, token files, manifest, and the order of training."""
