"""From markup to text: encodings, mathematics, and the extractors."""
