"""What all figures share: style, rendering to files, worker processes."""
