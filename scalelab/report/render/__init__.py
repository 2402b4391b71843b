"""Renderers of a Document: terminal text, Markdown, HTML. One file each."""
