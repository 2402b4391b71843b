"""The public Python API, imported lazily by `import scalelab`. Results know how to show themselves."""
