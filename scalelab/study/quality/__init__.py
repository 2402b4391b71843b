"""Quality control of the evidence, before any law is fitted."""
