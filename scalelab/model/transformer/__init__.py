"""The dense decoder in Llama's layout."""
